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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import few
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry
from jaxlm.tasks.base import Arrays, LeftOut, Record, Records
from jaxlm.tasks.texts import TextTask


@dataclass(frozen=True, kw_only=True)
class Classification(TextTask):
    """One class for a text."""

    baseline_title: ClassVar[str] = "largest class"

    label: str = field("label", "the column of the class")
    classes: tuple[str, ...] = field(
        (), "the classes in order; empty: those of the training records, sorted"
    )

    def validate(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise UserError("classes names a label twice; name each once")
        if len(self.classes) == 1:
            raise UserError("classes names one label only; name at least two, or none to find them")

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return *self.parts, self.label

    def expand(self, record: Record) -> list[Record]:
        texts, name = self._texts_of(record), class_name(record[self.label])
        if name is None:
            raise LeftOut("unlabelled")
        return [{**texts, self.label: name}]

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
                f"labels that are not classes: {few(unknown)} (classes: {few(self.classes)}); drop "
                "those rows, or train with data.task.classes, which names all labels"
            )
        return {"classes": {name: found[name] for name in self.classes}}

    def remarks(self, counts: Mapping[str, Any]) -> list[str]:
        if not (lacking := [name for name, number in counts["classes"].items() if not number]):
            return []
        return [
            f"no record has the class {few(lacking)}; for another split of the records set "
            "data.split_salt or data.validation_fraction"
        ]

    # ----------------------------------------------------------------------------- as rows

    def _target_rows(self) -> dict[str, Entry]:
        return {"labels": Entry(())}

    def _target(self, record: Record) -> Arrays:
        return {"labels": np.int32(self.classes.index(record[self.label]))}

    def _placeholder(self) -> Record:
        return {self.label: self.classes[0]}

    def show(self, row: Mapping[str, Any]) -> str:
        return f"class {self.classes[row['labels']]} ({int(row['labels'])})"

    # -------------------------------------------------------------------------- predicted

    def prediction(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """{"label": the most probable class, "score": its probability in [0, 1], "scores": {class:
        probability} in the order of `classes`}.

        arrays: `probs` [C].
        """
        scores = dict(zip(self.classes, arrays["probs"].tolist(), strict=True))
        label = max(scores, key=lambda name: scores[name])
        return {"label": label, "score": scores[label], "scores": scores}

    def said(self, prediction: Mapping[str, Any]) -> Any:
        return prediction["label"]

    # --------------------------------------------------------------------------- measured

    def baseline(self, train: Records) -> Callable[[Record], Any]:
        """The largest class."""
        largest = most_frequent(train.column(self.label))
        return lambda record: largest

    def prompt(self, record: Record) -> str:
        return record[self.text]

    @property
    def choices(self) -> tuple[str, ...]:
        return self.classes

    def reference(self, record: Record) -> str:
        return str(record[self.label])

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


def most_frequent(values: Iterable[str]) -> str:
    """The value that occurs most often, the first in order of several; "" of none."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value), default="")


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
