"""{"document": "A long text", "summary": "A short one"}, or article and highlights, or dialogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlm.data.formats.base import Record, Row, RowFormat, Sample, text_of

SOURCE = ("document", "article", "dialogue", "text")
TARGET = ("summary", "highlights")


@dataclass(frozen=True, kw_only=True)
class Summary(RowFormat):
    """`document` (`article`, `dialogue`, `text`) and `summary` (`highlights`)"""

    task = "summarisation"
    needs = ("|".join(SOURCE), "|".join(TARGET))
    answers = ("|".join(TARGET),)

    def record(self, row: Row, sample: Sample) -> Record:
        record = {"source": text_of(row, *SOURCE)}
        return record | ({"target": text_of(row, *TARGET)} if sample.answered else {})

    def row(self, record: Record) -> dict[str, Any]:
        return {"document": record["source"], "summary": record["target"]}
