"""One class for a text: sentiment, topic, language.

    data:
      type: records
      source: {type: csv, files: reviews.csv}
      task: {type: classification, text: review, label: stars}

A row is [bos] text [eos], padded to seq_len. A longer text loses its end and keeps the eos; the
manifest counts how many did. Records of equal text are in one split. The measures are
accuracy and

    F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c),    macro F1 = mean over classes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import few
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.tasks.base import Arrays, LeftOut, Record, Records, Task

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One class for a text."""

    text: str = field("text", "the column of the text")
    label: str = field("label", "the column of the class")
    classes: tuple[str, ...] = field(
        (), "the classes in order; empty: those of the training records, sorted"
    )
    add_bos: bool = field(True, "begin each text with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each text with the tokenizer's eos, where it has one")

    def validate(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise UserError("classes names a label twice; name each once")
        if len(self.classes) == 1:
            raise UserError("classes names one label only; name at least two, or none to find them")

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return self.text, self.label

    @property
    def augmented(self) -> tuple[str, ...]:
        return (self.text,)

    @property
    def marks(self) -> tuple[bool, bool]:
        return self.add_bos, self.add_eos

    def identity(self, record: Record) -> str:
        return record[self.text]

    def texts(self, record: Record) -> Iterable[str]:
        return (record[self.text],)

    def expand(self, record: Record) -> list[Record]:
        text, label = self._text(record), record[self.label]
        if not text.strip():
            raise LeftOut("blank")
        name = class_name(label)
        if name is None:
            raise LeftOut("unlabelled")
        return [{self.text: text, self.label: name}]

    def _text(self, record: Record) -> str:
        text = record[self.text]
        if not isinstance(text, str):
            raise UserError(
                f"column {self.text!r} holds a {type(text).__name__}, not text; set task.text to "
                "the column of the text"
            )
        return text

    def resolve(self, records: Records) -> Mapping[str, Any]:
        classes = self.classes or tuple(sorted(set(records.column(self.label))))
        if len(classes) < 2:
            raise UserError(
                f"the training texts have one label only ({', '.join(classes)}); "
                "check the column of labels, or name the classes in data.task.classes"
            )
        return {"classes": list(classes)}

    def given(self, facts: Mapping[str, Any]) -> Self:
        return self.replace(classes=tuple(facts["classes"]))

    def counts(self, records: Records) -> dict[str, Any]:
        found = Counter(records.column(self.label))
        if unknown := sorted(found.keys() - set(self.classes)):
            raise UserError(
                f"labels that are not classes: {few(unknown)} (classes: {few(self.classes)}); name "
                "all labels in data.task.classes, or drop those rows"
            )
        return {"classes": {name: found[name] for name in self.classes}}

    # ----------------------------------------------------------------------------- as rows

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        labels = {"labels": Entry(()), "example_weights": Entry((), np.float32)}
        return RowSpec({**text_rows(seq_len, pad_id), **labels}, T=seq_len)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        return {
            "tokens": self._cut(self._ids(record, tokenizer), tokenizer, room),
            "labels": np.int32(self.classes.index(record[self.label])),
            "example_weights": np.float32(1),
        }

    def length(self, record: Record, tokenizer: Tokenizer) -> int:
        return len(self._ids(record, tokenizer))

    def _ids(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        bos = [tokenizer.bos_id] if self.add_bos and tokenizer.bos_id is not None else []
        eos = [tokenizer.eos_id] if self.add_eos and tokenizer.eos_id is not None else []
        return [*bos, *tokenizer.encode(record[self.text]), *eos]

    def _cut(self, ids: list[int], tokenizer: Tokenizer, room: int) -> np.ndarray:
        cut = np.array(ids[:room], np.int32)
        if len(ids) > room and self.add_eos and tokenizer.eos_id is not None:
            cut[-1] = tokenizer.eos_id
        return cut

    def show(self, row: Mapping[str, Any]) -> str:
        return f"class {self.classes[row['labels']]} ({int(row['labels'])})"

    # -------------------------------------------------------------------------- predicted

    @property
    def asked(self) -> tuple[str, ...]:
        return (self.text,)

    def unanswered(self, record: Record) -> Record:
        text = self._text(record)
        if not text.strip():
            raise UserError(f"column {self.text!r} is blank; give some text, or remove the record")
        return {self.text: text, self.label: self.classes[0]}

    def prediction(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """{"label": the most probable class, "score": its probability in [0, 1], "scores": {class:
        probability} in the order of `classes`}.

        arrays: `probs` [C].
        """
        scores = dict(zip(self.classes, arrays["probs"].tolist(), strict=True))
        label = max(scores, key=lambda name: scores[name])
        return {"label": label, "score": scores[label], "scores": scores}

    # --------------------------------------------------------------------------- measured

    def prompt(self, record: Record) -> str:
        return record[self.text]

    def grade(self, record: Record, answer: str) -> float:
        return float(class_name(answer) == class_name(record[self.label]))

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """`predictions` are names of classes."""
        true = [class_name(record[self.label]) for record in records]
        pairs = list(zip(true, map(class_name, predictions), strict=True))
        right, names = Counter(t for t, p in pairs if t == p), {*self.classes, *true}
        asked, said = Counter(true), Counter(p for _, p in pairs)
        f1 = [2 * right[name] / max(asked[name] + said[name], 1) for name in names]
        return [
            Measure("accuracy", right.total() / max(len(pairs), 1), better="higher"),
            Measure("macro_f1", sum(f1) / max(len(f1), 1), better="higher"),
        ]


def class_name(value: Any) -> str | None:
    """A column's value as the name of a class; None where it is missing. Raises `UserError`."""
    if isinstance(value, str):
        return value.strip() or None  # " neg" and "neg" are one class
    if value is None or value != value:  # NaN
        return None
    if isinstance(value, bool):
        return str(value).lower()  # as JSON spells it
    if not isinstance(value, int | float):
        raise UserError(
            f"a {type(value).__name__} is not the name of a class; choose a column of texts"
        )
    return str(value)
