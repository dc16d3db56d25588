"""{"translation": {"en": "Hello", "de": "Hallo"}}. The first language is the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import few
from jaxlm.data.formats.base import Fit, Record, Row, RowFormat, Sample, text_of

COLUMN = "translation"


@dataclass(frozen=True, kw_only=True)
class Translation(RowFormat):
    """`translation`: {language: text}; `source` and `target` name the languages"""

    task = "translation"
    needs = ("translation",)

    source: str | None = field(None, "the language of the source; null: the first")
    target: str | None = field(None, "the language of the target; null: the other one")

    def fit(self, sample: Sample) -> Fit:
        rows = [row.get("translation") for _, row in sample.rows]
        first = next((row for row in rows if isinstance(row, Mapping) and row), None)
        if first is None:
            return Fit((), ("translation",))
        names = direction(self.source, self.target, [str(name) for name in first])
        return Fit(("translation",), note=f"{names[0]} -> {names[1]}")

    def record(self, row: Row, sample: Sample) -> Record:
        texts = row.get("translation")
        if not isinstance(texts, Mapping):
            raise UserError("column 'translation' is not a mapping of languages; correct it")
        first = next(iter(dict(sample.rows[0][1]).get("translation") or {}), None)
        source, target = direction(self.source or first, self.target, [str(n) for n in texts])
        record = {"source": text_of(texts, source)}
        return record | ({"target": text_of(texts, target)} if sample.answered else {})

    def row(self, record: Record) -> dict[str, Any]:
        names = self.source or "source", self.target or "target"
        return {COLUMN: dict(zip(names, sides(record), strict=True))}


def direction(source: str | None, target: str | None, known: Sequence[str]) -> tuple[str, str]:
    """The names of source and target among the known languages, by default the first two."""
    source = source or next((name for name in known if name != target), "source")
    target = target or next((name for name in known if name != source), "target")
    return source, target


def check_languages(source: str | None, target: str | None, known: Sequence[str]) -> None:
    for name in filter(None, (source, target)):
        if name not in known:
            raise UserError(f"there is no language {name!r}; choose one of {few(known)}")


def sides(record: Record) -> tuple[str, str]:
    return record["source"], record["target"]
