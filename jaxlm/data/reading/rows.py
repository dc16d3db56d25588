"""Rows with named columns, from the text of a file: JSON lines, CSV and TSV.

with open_file(Path("reviews.tsv")) as file:
    for here, row in csv_rows(decode(file, "reviews.tsv"), "reviews.tsv"):
        print(here, cell(row, "score", here))      # "reviews.tsv:2", "0.5"
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxlm.core.config import UserError, suggest
from jaxlm.core.errors import MissingColumn, few, shown
from jaxlm.data.reading.compressed import uncompressed_name
from jaxlm.data.reading.text import MAX_DOCUMENT_CHARS, lines, too_long

Row = tuple[str, Mapping[str, Any]]  # where it is ("file:line"), and its columns


def jsonl_rows(pieces: Iterable[str], where: str, most: int = MAX_DOCUMENT_CHARS) -> Iterator[Row]:
    """A JSON object a line; empty lines are passed over."""
    for number, line in enumerate(lines(pieces, where, most), start=1):
        if line.strip():
            yield f"{where}:{number}", json_object(line, f"{where}:{number}")


def json_object(line: str, here: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line.rstrip("\r\n"), object_pairs_hook=object_of)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{here}: not JSON ({json_reason(error)}); fix or remove the line"
        ) from None
    if not isinstance(row, dict):
        raise UserError(
            f"{here}: holds a {type(row).__name__}; a line must be a JSON object of named columns"
        )
    check_doubled(row, here)
    return row


def check_doubled(row: Mapping[str, Any], here: str) -> None:
    """Raises `UserError` for a row of `object_of` with two columns of one name."""
    if isinstance(row, Doubled):
        raise UserError(f"{here}: names the column {row.name!r} twice; rename or remove one")


class Doubled(dict[str, Any]):
    """A JSON object that has a key more than once."""

    name: str


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` of a JSON decoder: a dict, or `Doubled`."""
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    doubled, seen = Doubled(row), set()
    for name, _ in pairs:
        if name in seen:
            doubled.name = name
        seen.add(name)
    return doubled


def json_reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "a whole number of more than 4,300 digits"  # Python's limit


def check_columns(names: Sequence[str], where: str) -> None:
    """Raises `UserError` for a column name that is there twice; cells without a name may be."""
    for number, name in enumerate(names):
        if name and name in names[:number]:
            raise UserError(
                f"{where}: columns {names.index(name) + 1} and {number + 1} are both named "
                f"{name!r}; rename or remove one"
            )


def csv_rows(
    pieces: Iterable[str],
    where: str,
    *,
    delimiter: str | None = None,
    columns: Sequence[str] = (),
    quotes: bool | None = None,
    most: int = MAX_DOCUMENT_CHARS,
) -> Iterator[Row]:
    """Rows of a CSV or TSV file, named by `columns` or, where that is empty, by its first line.

    The delimiter is by default a tab for .tsv, .tab and .txt, else a comma. A cell that begins with
    a quotation mark is quoted, whatever the delimiter, unless `quotes` is false. Where `quotes` is
    None and the delimiter is a tab, rows that a stray mark would join to one cell are an error.
    So is a row of more than `most` characters: a quoted cell may have any number of lines.
    """
    reader, bounded = _cells(pieces, where, delimiter, quotes is not False, most)
    check_joined = quotes is None and reader.dialect.delimiter == "\t"
    names = list(columns)
    try:
        for cells in reader:
            bounded.held = 0
            here = f"{where}:{reader.line_num}"
            if not cells:
                continue
            if not names:
                names = cells
                check_columns(names, here)
                continue
            if check_joined and any("\n" in c and "\t" in c for c in cells):
                raise UserError(
                    f"{here}: a quotation mark joins lines with tabs to one cell; set quotes: "
                    "false if it is an ordinary character there, quotes: true if not"
                )
            if len(cells) != len(names):
                raise UserError(
                    f"{here}: {len(cells)} cells for {len(names)} columns ({few(names)}); "
                    + (
                        _other_delimiter(names, cells)
                        or "fix the row, or set delimiter, quotes or columns"
                    )
                )
            yield here, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{where}:{reader.line_num}: not CSV ({error}); fix the row, or set quotes: false if "
            "quotation marks are ordinary characters there"
        ) from None


def first_cells(pieces: Iterable[str], where: str, delimiter: str | None = None) -> list[str]:
    """The cells of a table's first row, a header line or not; [] where it is empty or not CSV."""
    reader, _ = _cells(pieces, where, delimiter, True, MAX_DOCUMENT_CHARS)
    try:
        return next(filter(None, reader), [])
    except csv.Error:
        return []


def _cells(
    pieces: Iterable[str], where: str, delimiter: str | None, quotes: bool, most: int
) -> tuple[Any, _RowLines]:
    """The rows of cells, and the lines that they are read from."""
    if delimiter is None:
        is_tab = uncompressed_name(where).lower().endswith((".tsv", ".tab", ".txt"))
        delimiter = "\t" if is_tab else ","
    csv.field_size_limit(sys.maxsize)  # Python's limit of 128 KiB is less than many a document
    bounded = _RowLines(lines(pieces, where, most), where, most)
    reader = csv.reader(
        bounded,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=quotes,
    )
    return reader, bounded


class _RowLines:
    """The lines of a file, of which one row takes at most `most` characters. The reader of the rows
    sets `held` to 0 after each.
    """

    def __init__(self, lines: Iterator[str], where: str, most: int) -> None:
        self.lines, self.where, self.most = lines, where, most
        self.held = self.number = 0

    def __iter__(self) -> _RowLines:
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        self.number += 1
        self.held += len(line)
        if self.held > self.most:
            fix = "split its text, set quotes: false if a quotation mark is an ordinary character"
            raise too_long(f"{self.where}:{self.number}: a row", self.most, fix)
        return line


def cell(row: Mapping[str, Any], column: str, here: str) -> Any:
    """The value of `column`; a missing column is an error that names the nearest one."""
    try:
        return row[column]
    except KeyError:
        known = [ascii(n)[1:-1] if not _printable(n) else n for n in map(str, row)] or ["none"]
        if len(known) == 1 and (hint := _other_delimiter(known, [], column)):
            raise UserError(f"{here}: no column {column!r} in {known[0][:200]!r}; {hint}") from None
        raise MissingColumn.of(
            f"{here}: no column {column!r}; {suggest(column, known)}", column
        ) from None


def _printable(text: str) -> bool:
    return all(not "\ud800" <= c <= "\udfff" for c in text)


def _other_delimiter(names: Sequence[str], cells: Sequence[str], column: str = "") -> str | None:
    """The fix where one cell looks like several, with another delimiter between them."""
    for delimiter, spelt in ((";", ";"), ("\t", "\\t"), (",", ","), ("|", "|")):
        if len(names) == 1:
            parts = [p.strip().strip('"') for p in names[0].split(delimiter)]
            fits = len(parts) > 1 and (not column or column in parts)
        else:
            fits = len(cells) == 1 and len(cells[0].split(delimiter)) == len(names)
        if fits:
            return f'set delimiter: "{spelt}", which is between its cells'
    return None


def validate_delimiter(delimiter: str | None) -> None:
    if delimiter is not None and len(delimiter) != 1:
        raise UserError(f"delimiter {shown(delimiter)}: must be one character")
