"""Files of rows with named columns: JSON lines, CSV and TSV, Parquet, ArrayRecord.

    source = Csv(files=("reviews.tsv",), columns=("id", "score", "text"), label_column="score",
                 label_bins=(LabelBin(name="good", above=0.5), LabelBin(name="bad", below=-0.5)))

One column is the text, another may give the class. A document's name is "file:line", and for
Parquet and ArrayRecord "file:record", counted from 0.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxlm.core.config import UserError, field
from jaxlm.data.sources.base import Document, FileSource, Unit, match_files, validate_text_options
from jaxlm.data.sources.compressed import open_file
from jaxlm.data.sources.formats import (
    MAX_DOCUMENT_CHARS,
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


@dataclass(frozen=True, kw_only=True)
class RowFiles(FileSource, Labels, abstract=True):
    """Files of rows with named columns, one of them the text."""

    reading_version = ROWS_VERSION

    text_column: str = field("text", "the column that holds the text")


def row_documents(
    rows: Iterable[Row],
    text_column: str,
    labels: Labels,
    name: str,
    counts: Counter[str],
    most: int = MAX_DOCUMENT_CHARS,
) -> Iterator[Document]:
    """Rows as documents "name:line"; blank texts and rows without a usable label are counted.

    Raises `UserError` for a text of more than `most` characters.
    """
    for here, row in rows:
        text = cell(row, text_column, here)
        if text is None or text == "":
            counts["blank"] += 1
            continue
        if not isinstance(text, str):
            raise UserError(
                f"{here}: column {text_column!r} holds a {type(text).__name__}, not text; "
                "set text_column to the column of the text"
            )
        if not text.strip():
            counts["blank"] += 1
            continue
        if len(text) > most:
            raise too_long(f"{here}: column {text_column!r}", most, "split it")
        check_characters(text, here)
        label = labels.label(row, here, counts) if labels.label_column else None
        if label is not None:
            check_characters(label, here, f"the label in column {labels.label_column!r} holds ")
        if label is not None or not labels.label_column:
            yield Document(text, f"{name}:{here.rpartition(':')[2]}", label)


@dataclass(frozen=True, kw_only=True)
class JsonLines(RowFiles, type="jsonl"):
    """A JSON object a line, plain or .gz, .zst, .bz2 or .xz."""

    encoding: str = field("utf-8", "of the files; every byte must be valid in it")

    def validate(self) -> None:
        super().validate()
        validate_text_options(None, self.encoding)

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        with open_file(unit.origin) as file:
            where = str(unit.origin)
            most = self.max_document_chars
            rows = jsonl_rows(decode(file, where, self.encoding), where, most)
            yield from row_documents(rows, self.text_column, self, unit.name, counts, most)


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

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        with open_file(unit.origin) as file:
            where = str(unit.origin)
            rows = csv_rows(
                decode(file, where, self.encoding),
                where,
                delimiter=self.delimiter,
                columns=self.columns,
                quotes=self.quotes,
                most=self.max_document_chars,
            )
            most = self.max_document_chars
            yield from row_documents(rows, self.text_column, self, unit.name, counts, most)


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

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        name, path, group, first = unit.origin
        rows, most = self._rows(path, group, first), self.max_document_chars
        yield from row_documents(rows, self.text_column, self, name, counts, most)

    def _rows(self, path: Path, group: int, first: int) -> Iterator[Row]:
        file = self._open(path)
        check_columns(file.schema_arrow.names, str(path))
        known = dict.fromkeys(file.schema_arrow.names)
        columns = [c for c in (self.text_column, self.label_column) if c is not None]
        for column in columns:
            cell(known, column, str(path))
        number = first
        try:
            for batch in file.iter_batches(1024, row_groups=[group], columns=columns):
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

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        name, path, start, stop = unit.origin
        with self._open(path) as reader:
            records = reader.read(start, stop)
        rows, most = self._rows(records, path, start), self.max_document_chars
        yield from row_documents(rows, self.text_column, self, name, counts, most)

    def _rows(self, records: list[bytes], path: Path, start: int) -> Iterator[Row]:
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
