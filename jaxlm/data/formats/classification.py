"""A table or JSON lines of texts with a label: `text,label`, `review,stars`, `sentence,sentiment`.

A label is a name, a number (with the file's names of the classes, where it has them) or a list of
names. Other names of the columns are said by `data.source.columns: {text: opinion}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.data.formats.base import Record, Row, RowFormat, Sample, column, text_of

TEXT = ("text", "sentence", "content", "review", "body", "comment", "message", "tweet", "title")
LABEL = (
    "label",
    "labels",
    "class",
    "category",
    "sentiment",
    "target",
    "topic",
    "intent",
    "polarity",
    "stars",
    "rating",
    "score",
    "emotion",
)
LONGEST = 100  # characters of a label


@dataclass(frozen=True, kw_only=True)
class Classification(RowFormat):
    """a text (`text`, `sentence`, `review`, ...) and its `label` (`class`, `stars`, ...)"""

    task = "classification"
    needs = ("|".join(TEXT), "|".join(LABEL))
    answers = ("|".join(LABEL),)

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        text, *label = names.values()
        if not all(isinstance(row.get(text), str | None) for _, row in sample.rows):
            return [f"{text} as text"]
        return [what for name in label for what in no_label(sample, name)]

    def record(self, row: Row, sample: Sample) -> Record:
        record = {"text": text_of(row, *TEXT)}
        return record | (labelled(row, sample, LABEL) if sample.answered else {})

    def row(self, record: Record) -> dict[str, Any]:
        return {"text": record["text"], "label": record["label"]}


def no_label(sample: Sample, name: str) -> list[str]:
    """The values that a column of labels lacks: a name, a number or a list of names in each row."""
    values = [row.get(name) for _, row in sample.rows]
    return [] if all(map(_is_label, values)) else [f"{name} as a class"]


def _is_label(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, str | int) for one in value)
    return value is None or (isinstance(value, str | int | float) and len(str(value)) <= LONGEST)


def labelled(row: Row, sample: Sample, columns: Sequence[str]) -> Record:
    """{"label": ...} of a row. Raises `UserError` where it is missing."""
    value = column(row, *columns)
    if value is None or value == "":
        raise UserError(f"has no label in column {columns[0]!r}; fill it in or remove the row")
    if not _is_label(value):
        raise UserError(
            f"the label is a {type(value).__name__} or longer than {LONGEST} characters; correct it"
        )
    name = next(n for n in columns if row.get(n) is not None)
    known = (sample.names or {}).get(name)
    if known and isinstance(value, list):
        return {"label": [named(one, known, name) for one in value]}
    return {"label": named(value, known, name) if known else value}


def named(value: Any, names: Sequence[str], column: str) -> Any:
    """The name of a class that is a number. Raises `UserError` where it has none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 0 <= value < len(names):
        raise UserError(
            f"column {column!r} holds {value}, and there are {len(names)} names; correct it"
        )
    return names[value]
