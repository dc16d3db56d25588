"""fastText's lines: `__label__good A fine film`. Several labels are a list; empty lines are passed
over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.data.formats.base import Failed, Fit, LineFormat, Placed, Record, Sample, refuse


@dataclass(frozen=True, kw_only=True)
class FastText(LineFormat):
    """lines of `__label__NAME` and a text"""

    task = "classification"

    prefix: str = field("__label__", "what a label begins with")

    def validate(self) -> None:
        if not self.prefix.strip():
            raise UserError("prefix is empty; set it to what a label begins with")

    def fit(self, sample: Sample) -> Fit:
        lines = [line for line in sample.lines if line.strip()]
        if lines and all(line.lstrip().startswith(self.prefix) for line in lines):
            return Fit((f"{self.prefix}NAME", "text"))
        return Fit((), (f"lines that begin with {self.prefix}",))

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        for here, line in items:
            words = line.split()
            labels = [w.removeprefix(self.prefix) for w in words if w.startswith(self.prefix)]
            text = " ".join(word for word in words if not word.startswith(self.prefix))
            if not words:
                continue
            if sample.answered and not (labels and all(labels)):
                failed(UserError(f"{here}: has no label ({self.prefix}NAME); add one"))
            elif not text:
                failed(UserError(f"{here}: has labels and no text; add it or remove the line"))
            else:
                label = labels[0] if len(labels) == 1 else labels
                yield here, {"text": text, "label": label} if labels else {"text": text}

    def write(self, records: Iterable[Record]) -> Iterator[str]:
        for record in records:
            label = record["label"]
            labels = label if isinstance(label, list) else [label]
            if not labels:
                raise UserError("a record has no label, which a line needs; choose classification")
            for name in map(str, labels):
                if name.split() != [name]:
                    raise UserError(
                        f"the label {shown(name)} has white space or is empty, which a line cannot "
                        "have; choose classification"
                    )
            words = record["text"].split()  # a line has no line ends
            if taken := [word for word in words if word.startswith(self.prefix)]:
                raise UserError(
                    f"the text has the word {shown(taken[0])}, which would be a label; choose "
                    "classification"
                )
            yield " ".join([*(f"{self.prefix}{name}" for name in labels), *words])
