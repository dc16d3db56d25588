"""{"text": "Running text"}: JSON lines or a table with a column of running text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.data.formats.base import Record, Row, RowFormat, Sample, text_of

NAMES = ("text", "content")


@dataclass(frozen=True, kw_only=True)
class TextColumn(RowFormat):
    """`text` (or `content`) of running text"""

    task = "text"
    needs = ("|".join(NAMES),)

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        (name,) = names.values()
        texts = all(isinstance(row.get(name), str | None) for _, row in sample.rows)
        return [] if texts else [f"{name} as text"]

    def record(self, row: Row, sample: Sample) -> Record:
        return {"text": text_of(row, *NAMES, blank=True)}

    def row(self, record: Record) -> dict[str, Any]:
        return {"text": record["text"]}
