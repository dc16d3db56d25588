"""Rows as they are, for a task that names the columns: `task: {text: opinion, label: mark}`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlm.data.formats.base import Fit, Record, Row, RowFormat, Sample


@dataclass(frozen=True, kw_only=True)
class Columns(RowFormat):
    """any columns, as they are, for a task that names them"""

    task = "any"
    needs = ()
    as_it_is = True

    def fit(self, sample: Sample) -> Fit:
        return Fit(sample.columns) if sample.columns else Fit((), ("columns",))

    def record(self, row: Row, sample: Sample) -> Record:
        return dict(row)

    def row(self, record: Record) -> dict[str, Any]:
        return dict(record)
