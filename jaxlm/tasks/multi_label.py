"""Any number of classes for a text or a pair: topics, tags of a question.

    data:
      type: records
      source: {type: jsonl, files: questions.jsonl}
      task: {type: multi_label, label: topics}

The column of labels holds a list, or a text with a separator: "sports|politics". A record with an
empty list has no class, which is an answer; one without the column's value is left out. A class is
predicted where its probability is above `threshold`. The measures are

    micro F1         2 TP / (2 TP + FP + FN), counts over all classes
    macro F1         the mean of F1 over classes
    exact match      share of the records whose classes are all right
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import few, shown
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry
from jaxlm.tasks.base import Arrays, LeftOut, Record, Records
from jaxlm.tasks.classification import class_name
from jaxlm.tasks.texts import TextTask

MICRO = Measure("micro_f1", better="higher", show="headline", label="micro F1", format=".3f")
MACRO = Measure("macro_f1", better="higher", label="macro F1", format=".3f")
EXACT = Measure("exact_match", better="higher", format=".1%")


@dataclass(frozen=True, kw_only=True)
class MultiLabel(TextTask):
    """Any number of classes for a text or a pair."""

    scored: ClassVar[bool] = True
    baseline_title: ClassVar[str] = "most frequent classes"

    text_b: str | None = field(None, "the column of a second text; null: one text")
    label: str = field("label", "the column of the classes: a list, or a text with separators")
    separator: str = field("|", "between classes, where the column holds a text")
    classes: tuple[str, ...] = field(
        (), "the classes in order; empty: those of the training records, sorted"
    )
    threshold: float = field(0.5, "a class is predicted above this probability", gt=0, lt=1)

    def validate(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise UserError("classes names a label twice; name each once")
        if not self.separator:
            raise UserError("separator is empty; name what is between two classes")

    # ------------------------------------------------------------------------- at preparation

    @property
    def columns(self) -> tuple[str, ...]:
        return *self.parts, self.label

    def expand(self, record: Record) -> list[Record]:
        texts, value = self._texts_of(record), record[self.label]
        if value is None:
            raise LeftOut("unlabelled")
        return [{**texts, self.label: self._names(value)}]

    def _names(self, value: Any) -> list[str]:
        """The names of classes in a column's value, each once, sorted."""
        if isinstance(value, str):
            value = value.split(self.separator)
        values = value if isinstance(value, list | tuple) else [value]
        return sorted({name for each in values if (name := class_name(each)) is not None})

    def resolve(self, records: Records) -> Mapping[str, Any]:
        found = {name for names in records.column(self.label) for name in names}
        classes = self.classes or tuple(sorted(found))
        if not classes:
            raise UserError(
                f"no training text has a class in column {shown(self.label)}; check the column"
            )
        return {"classes": list(classes)}

    def given(self, facts: Mapping[str, Any]) -> Self:
        return self.replace(classes=tuple(facts["classes"]))

    def counts(self, records: Records) -> dict[str, Any]:
        found = Counter(name for names in records.column(self.label) for name in names)
        if unknown := sorted(found.keys() - set(self.classes)):
            raise UserError(
                f"labels that are not classes: {few(unknown)} (classes: {few(self.classes)}); drop "
                "those rows, or train with data.task.classes, which names all labels"
            )
        return {"classes": {name: found[name] for name in self.classes}}

    # ----------------------------------------------------------------------------- as rows

    def _target_rows(self) -> dict[str, Entry]:
        """One number where the classes are not known yet; the objective knows how many."""
        return {"labels": Entry((max(1, len(self.classes)),), np.float32)}

    def _target(self, record: Record) -> Arrays:
        has = {*record[self.label]}
        return {"labels": np.array([name in has for name in self.classes], np.float32)}

    def _placeholder(self) -> Record:
        return {self.label: []}

    def show(self, row: Mapping[str, Any]) -> str:
        names = [name for name, has in zip(self.classes, row["labels"], strict=True) if has > 0]
        return f"classes {few(names) or 'none'}"

    # -------------------------------------------------------------------------- predicted

    def prediction(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """{"labels": the classes above the threshold, "scores": {class: probability}}.

        arrays: `probs` [C], each in [0, 1] by itself.
        """
        scores = dict(zip(self.classes, arrays["probs"].tolist(), strict=True))
        return {"labels": [n for n, p in scores.items() if p > self.threshold], "scores": scores}

    def said(self, prediction: Mapping[str, Any]) -> Any:
        return prediction["labels"]

    # --------------------------------------------------------------------------- measured

    def baseline(self, train: Records) -> Callable[[Record], Any]:
        """The classes that more than half of the training records have, or the most frequent."""
        counts = Counter(name for names in train.column(self.label) for name in names)
        often = [name for name, n in counts.items() if 2 * n > len(train)]
        often = often or [min(counts, key=lambda name: (-counts[name], name))] if counts else []
        return lambda record: often

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """`predictions` are lists of names of classes."""
        right, said, asked = Counter[str](), Counter[str](), Counter[str]()
        exact = total = 0
        for names, record in zip(predictions, records, strict=True):
            guess, true = {*names}, {*record[self.label]}
            right.update(guess & true)
            said.update(guess)
            asked.update(true)
            exact += guess == true
            total += 1
        classes = {*self.classes, *said, *asked}
        f1 = [2 * right[name] / max(said[name] + asked[name], 1) for name in classes]
        return [
            MICRO.of(2 * right.total() / max(said.total() + asked.total(), 1)),
            MACRO.of(sum(f1) / max(len(f1), 1)),
            EXACT.of(exact / max(total, 1)),
        ]
