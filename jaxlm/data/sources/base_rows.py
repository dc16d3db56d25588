"""The base of files of rows with named columns: JSON lines, CSV and TSV, Parquet, ArrayRecord.

    source = Csv(files=("reviews.tsv",), columns=("id", "score", "text"), label_column="score",
                 label_bins=(LabelBin(name="good", above=0.5), LabelBin(name="bad", below=-0.5)))

A document is one column, the text, and may have a class by another; a record has any of the
columns. A document's name is "file:line", and for Parquet and ArrayRecord "file:record", counted
from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jaxlm.core.config import UserError, field
from jaxlm.data.reading.labels import Labels
from jaxlm.data.reading.rows import Row, cell
from jaxlm.data.reading.text import check_characters, too_long
from jaxlm.data.sources.base import (
    Document,
    FileSource,
    Record,
    Unit,
)

# Raise it when the same files and options come to give other rows.
ROWS_VERSION = 2


class Table(Protocol):
    """The facts that a source of rows gives about its columns."""

    text_column: str
    max_document_chars: int
    label_column: str | None

    def label(self, row: Mapping[str, Any], here: str, counts: Counter[str]) -> str | None: ...


def row_records(
    rows: Iterable[Row],
    columns: Sequence[str],
    table: Any,
    name: str,
    counts: Counter[str],
) -> Iterator[tuple[str, Record]]:
    """Rows as records "name:line" with these columns.

    `text` is the table's text column, whose blank texts are counted and left out; `label` is the
    class by its rules (`Labels`), and rows without one are counted. Others are as they are.
    """
    for here, row in rows:
        record: Record = {}
        for column in columns:
            if column in ("text", table.text_column):
                value: Any = _text(row, table, here, counts)
            elif table.label_column and column in ("label", table.label_column):
                value = table.label(row, here, counts)
                if value is not None:
                    check_characters(
                        value, here, f"the label in column {table.label_column!r} holds "
                    )
            else:
                record[column] = _other(row, column, table, here)
                continue
            if value is None:
                break
            record[column] = value
        else:
            yield f"{name}:{here.rpartition(':')[2]}", record


def row_documents(
    rows: Iterable[Row], table: Any, name: str, counts: Counter[str]
) -> Iterator[Document]:
    """Rows as documents: their texts, and classes where the table has a column of labels."""
    columns = ("text", "label") if table.label_column else ("text",)
    for place, record in row_records(rows, columns, table, name, counts):
        yield Document(record["text"], place, record.get("label"))


def _text(row: Mapping[str, Any], table: Table, here: str, counts: Counter[str]) -> str | None:
    """The row's text; None, and a count, where it is blank. Raises `UserError` for another value,
    and for a text of more than `max_document_chars` characters.
    """
    text = cell(row, table.text_column, here)
    if text is not None and not isinstance(text, str):
        raise UserError(
            f"{here}: column {table.text_column!r} holds a {type(text).__name__}, not text; "
            "set text_column to the column of the text"
        )
    if text is None or not text.strip():
        counts["blank"] += 1
        return None
    _check_text(text, table.text_column, table, here)
    return text


def _other(row: Mapping[str, Any], column: str, table: Table, here: str) -> Any:
    value = cell(row, column, here)
    if isinstance(value, str):
        _check_text(value, column, table, here)
    return value


def _check_text(text: str, column: str, table: Table, here: str) -> None:
    if len(text) > table.max_document_chars:
        raise too_long(f"{here}: column {column!r}", table.max_document_chars, "split it")
    check_characters(text, here)


@dataclass(frozen=True, kw_only=True)
class RowFiles(FileSource, Labels, abstract=True):
    """Files of rows with named columns. A kind of them gives `rows`."""

    reading_version = ROWS_VERSION

    text_column: str = field("text", "the column that holds the text")

    def rows(self, unit: Unit, columns: Sequence[str]) -> Iterator[Row]:
        """("path:line", row) of one unit; `columns` are those that are asked for."""
        raise NotImplementedError

    def name_of(self, unit: Unit) -> str:
        """The name of the unit's file."""
        return unit.name

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        rows = self.rows(unit, ["text"])
        yield from row_documents(rows, self, self.name_of(unit), counts)

    def read_records(
        self, unit: Unit, columns: Sequence[str], counts: Counter[str]
    ) -> Iterator[tuple[str, Record]]:
        rows = self.rows(unit, columns)
        yield from row_records(rows, columns, self, self.name_of(unit), counts)
