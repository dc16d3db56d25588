"""Files of rows with named columns: JSON lines, CSV and TSV, Parquet, ArrayRecord.

    source = Csv(files=("reviews.tsv",), columns=("id", "score", "text"), label_column="score",
                 label_bins=(LabelBin(name="good", above=0.5), LabelBin(name="bad", below=-0.5)))

A document is one column, the text, and may have a class by another; a record has any of the
columns. A document's name is "file:line", and for
Parquet and ArrayRecord "file:record", counted from 0.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from jaxlm.core.config import UserError, field
from jaxlm.data.sources.base import (
    Document,
    FileSource,
    Record,
    Unit,
    match_files,
    validate_text_options,
)
from jaxlm.data.sources.compressed import open_file
from jaxlm.data.sources.formats import (
    Row,
    cell,
    check_characters,
    check_columns,
    csv_rows,
    decode,
    json_object,
    jsonl_rows,
    too_long,
)
from jaxlm.data.sources.labels import Labels
from jaxlm.data.sources.optional import need

# Raise it when the same files and options come to give other rows.
ROWS_VERSION = 2


class Table(Protocol):
    """What a source of rows says of its columns."""

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


@dataclass(frozen=True, kw_only=True)
class JsonLines(RowFiles, type="jsonl"):
    """A JSON object a line, plain or .gz, .zst, .bz2 or .xz."""

    encoding: str = field("utf-8", "of the files; every byte must be valid in it")

    def validate(self) -> None:
        super().validate()
        validate_text_options(None, self.encoding)

    def rows(self, unit: Unit, columns: Sequence[str]) -> Iterator[Row]:
        with open_file(unit.origin) as file:
            where = str(unit.origin)
            pieces = decode(file, where, self.encoding)
            yield from jsonl_rows(pieces, where, self.max_document_chars)


@dataclass(frozen=True, kw_only=True)
class Csv(RowFiles, type="csv"):
    """CSV or TSV with a header line or given column names, plain or .gz, .zst, .bz2 or .xz."""

    columns: tuple[str, ...] = field((), "names of the columns of a file without a header line")
    delimiter: str | None = field(
        None, "between cells; by default tab for .tsv and .txt, else comma"
    )
    quotes: bool | None = field(
        None, "whether cells may be quoted; null: yes, but not over lines that have tabs"
    )
    encoding: str = field("utf-8", "of the files; every byte must be valid in it")

    def validate(self) -> None:
        super().validate()
        validate_text_options(None, self.encoding)
        validate_delimiter(self.delimiter)
        check_columns(self.columns, "columns")

    def rows(self, unit: Unit, columns: Sequence[str]) -> Iterator[Row]:
        with open_file(unit.origin) as file:
            where = str(unit.origin)
            yield from csv_rows(
                decode(file, where, self.encoding),
                where,
                delimiter=self.delimiter,
                columns=self.columns,
                quotes=self.quotes,
                most=self.max_document_chars,
            )


@dataclass(frozen=True, kw_only=True)
class Parquet(RowFiles, type="parquet"):
    """Parquet files, read a row group at a time."""

    def units(self) -> list[Unit]:
        units = []
        for name, path in match_files(self.files).items():
            file, first = self._open(path), 0
            for group in range(file.num_row_groups):
                units.append(Unit(f"{name}#{group}", (name, path, group, first), self))
                first += file.metadata.row_group(group).num_rows
        return units

    def name_of(self, unit: Unit) -> str:
        return unit.origin[0]

    def rows(self, unit: Unit, columns: Sequence[str]) -> Iterator[Row]:
        _, path, group, number = unit.origin
        file = self._open(path)
        check_columns(file.schema_arrow.names, str(path))
        known = dict.fromkeys(file.schema_arrow.names)
        own = {"text": self.text_column, "label": self.label_column or "label"}
        read = [own.get(name, name) for name in columns]
        read += [self.label_column] if self.label_column else []
        for column in read:
            cell(known, column, str(path))
        try:
            for batch in file.iter_batches(
                1024, row_groups=[group], columns=[*dict.fromkeys(read)]
            ):
                for row in batch.to_pylist():
                    yield f"{path}:{number}", row
                    number += 1
        except (
            OSError,
            UnicodeDecodeError,
            need("pyarrow", "formats", "Parquet").ArrowException,
        ) as error:
            raise UserError(
                f"{path}: row group {group} cannot be read ({_one_line(error)}); replace the file"
            ) from None

    def _open(self, path: Path) -> Any:
        parquet = need("pyarrow.parquet", "formats", "a Parquet source")
        try:
            return parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a Parquet file ({_one_line(error)})") from None


@dataclass(frozen=True, kw_only=True)
class ArrayRecord(RowFiles, type="array_record"):
    """ArrayRecord files whose records are UTF-8 text or JSON objects."""

    record: Literal["text", "json"] = field("text", "what a record is: a text, or a JSON object")
    records_per_unit: ClassVar[int] = 4096

    def validate(self) -> None:
        super().validate()
        if self.record == "text" and self.label_column:
            raise UserError("label_column needs columns; set record: json")

    def units(self) -> list[Unit]:
        units = []
        for name, path in match_files(self.files).items():
            with self._open(path) as reader:
                total = reader.num_records()
            for start in range(0, total, self.records_per_unit):
                stop = min(start + self.records_per_unit, total)
                units.append(Unit(f"{name}#{start}", (name, path, start, stop), self))
        return units

    def name_of(self, unit: Unit) -> str:
        return unit.origin[0]

    def rows(self, unit: Unit, columns: Sequence[str]) -> Iterator[Row]:
        _, path, start, stop = unit.origin
        with self._open(path) as reader:
            records = reader.read(start, stop)
        for number, record in enumerate(records, start=start):
            here = f"{path}:{number}"
            try:
                text = record.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{here}: byte {error.start} of the record is not UTF-8; records must be texts"
                ) from None
            yield (
                here,
                json_object(text, here) if self.record == "json" else {self.text_column: text},
            )

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        module = need("array_record.python.array_record_module", "formats", "an ArrayRecord source")
        try:
            reader = module.ArrayRecordReader(str(path))
            yield reader
            reader.close()
        except Exception as error:  # the reader raises bare C++ statuses, some only on closing
            raise UserError(
                f"{path}: cannot be read as ArrayRecord ({_one_line(error)}); check or replace it"
            ) from None


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def validate_delimiter(delimiter: str | None) -> None:
    if delimiter is not None and len(delimiter) != 1:
        raise UserError(f"delimiter {delimiter!r}: must be one character")
