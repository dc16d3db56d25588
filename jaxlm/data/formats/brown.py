"""Brown's words with their tags, a sentence a line: `The/at jury/nn said/vbd`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.data.formats.base import Failed, Fit, LineFormat, Placed, Record, Sample, refuse
from jaxlm.data.formats.conll import word
from jaxlm.data.formats.tags import pairs_of


@dataclass(frozen=True, kw_only=True)
class Brown(LineFormat):
    """lines of `word/TAG word/TAG`, a sentence a line"""

    task = "tagging"
    version = 2

    separator: str = field("/", "between a word and its tag: the last one of a word counts")

    def validate(self) -> None:
        if not self.separator or self.separator.split() != [self.separator]:
            raise UserError("separator is empty or white space; set it to what is before a tag")

    def fit(self, sample: Sample) -> Fit:
        if self._has_tags(sample):
            return Fit((f"word{self.separator}TAG",))
        if not sample.answered and any(map(str.strip, sample.lines)):
            return Fit()  # words with white space between them
        return Fit((), (f"words with {self.separator} and a tag",))

    def _has_tags(self, sample: Sample) -> bool:
        words = [word for line in sample.lines for word in line.split()]
        return len(words) > 1 and all(self._pair(word) for word in words)

    def _pair(self, text: str) -> tuple[str, str] | None:
        token, _, tag = text.rpartition(self.separator)
        return (token, tag) if token and tag else None

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        has_tags = sample.answered or self._has_tags(sample)
        for here, line in items:
            words = line.split()
            if not words:
                continue
            if not has_tags:
                yield here, {"tokens": words}
                continue
            pairs = [self._pair(one) for one in words]
            if None in pairs:
                bad = words[pairs.index(None)]
                fix = f"write word{self.separator}TAG"
                failed(UserError(f"{here}: {shown(bad)} has no tag; {fix}"))
                continue
            tokens, tags = zip(*(pair for pair in pairs if pair), strict=True)
            yield here, {"tokens": [*tokens], **({"tags": [*tags]} if sample.answered else {})}

    def write(self, records: Iterable[Record]) -> Iterator[str]:
        for record in records:
            yield " ".join(f"{word(a)}{self.separator}{word(b)}" for a, b in pairs_of(record))
