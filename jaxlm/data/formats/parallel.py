"""A table or JSON lines with a column for each language: `source,target`, `src,tgt` or `en,de`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import field
from jaxlm.data.formats.base import Fit, Record, Row, RowFormat, Sample, text_of
from jaxlm.data.formats.translation import direction

LANGUAGE = re.compile(r"[a-z]{2}([-_][A-Za-z]{2,4})?")
NAMES = (("source", "target"), ("src", "tgt"), ("source_text", "target_text"))


@dataclass(frozen=True, kw_only=True)
class Parallel(RowFormat):
    """`source` and `target` (`src`, `tgt`), or two columns that languages name (`en`, `de`)"""

    task = "translation"
    needs = ("source", "target")
    answers = ("target",)

    source: str | None = field(None, "the column of the source; null: the first")
    target: str | None = field(None, "the column of the target; null: the other one")

    def fit(self, sample: Sample) -> Fit:
        if sample.part == "pairs":
            return Fit((), ("columns of one file",))
        names = self.names(sample)
        needed = names[: 1 + sample.answered]
        return Fit(
            tuple(name for name in needed if name in sample.columns),
            tuple(name for name in needed if name not in sample.columns),
            f"{names[0]} -> {names[1]}",
        )

    def names(self, sample: Sample) -> tuple[str, str]:
        """The columns of source and target."""
        if self.source or self.target:
            return direction(self.source, self.target, sample.columns)
        for pair in NAMES:
            if pair[0] in sample.columns:
                return pair
        languages = [name for name in sample.columns if LANGUAGE.fullmatch(name)]
        if languages and len(languages) == len(sample.columns) <= 2:
            return direction(None, None, languages)
        return NAMES[0]

    def record(self, row: Row, sample: Sample) -> Record:
        source, target = self.names(sample)
        record = {"source": text_of(row, source)}
        return record | ({"target": text_of(row, target)} if sample.answered else {})

    def row(self, record: Record) -> dict[str, Any]:
        names = self.source or "source", self.target or "target"
        return {names[0]: record["source"], names[1]: record["target"]}
