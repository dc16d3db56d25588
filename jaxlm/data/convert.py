"""Files of one format as a file of another.

    convert(Files(files=("alpaca.json",)), format_called("openai"), Path("chat.jsonl"))

Records are read and written one at a time. What the other format has no place for is an error:
converted back, the columns of the task are equal. Other columns of the file are left out, a table
makes texts of numbers, and fastText's lines have one space between words.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import itertools
import json
import lzma
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from jaxlm.core.config import UserError, type_name
from jaxlm.core.errors import few
from jaxlm.core.files import disk_errors
from jaxlm.core.optional import need
from jaxlm.data.formats.base import Format, Record
from jaxlm.data.formats.shapes import SHAPES
from jaxlm.data.reading.compressed import uncompressed_name
from jaxlm.data.sources.base import empty_corpus
from jaxlm.data.sources.files import Files

PACKERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ROWS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MOST_OPEN = 64  # files at a time
AT_A_TIME = 4096  # rows of a Parquet file, by whose first ones its types are found
# Columns that a conversion must not leave out, where records have them.
LOST = {column for s in SHAPES.values() for column in s.optional if column not in s.unneeded}


def convert(source: Files, to: Format, out: Path, left_out: Counter[str] | None = None) -> int:
    """Writes the records of a source to a file, by whose ending it is JSON lines, JSON, CSV or TSV,
    for a format of rows, or Parquet; .gz, .bz2 and .xz are packed. The files of a separate
    format have names that begin with `out`. Returns the number of records.

    left_out: counts the rows that are not read, by the reason.
    """
    left_out = Counter[str]() if left_out is None else left_out
    records = _counted(checked(_records(source, to, left_out), to), counts := Counter[str]())
    with (
        disk_errors(out),
        tempfile.TemporaryDirectory(
            prefix=f".{out.name}.", dir=out.parent, ignore_cleanup_errors=True
        ) as folder,
    ):
        temporary = Path(folder, out.name)
        if to.separate:
            _write_separate(to, records, temporary)
        elif out.suffix == ".parquet" and to.reads == "rows":
            _write_parquet(to, records, temporary)
        else:
            with _open(temporary, out.name) as file:
                for piece in pieces(to, records, Path(uncompressed_name(out.name)).suffix):
                    file.write(piece)
        for made in Path(folder).iterdir():
            os.replace(made, out.parent / made.name)
    return counts["records"]


def _write_separate(to: Format, records: Iterable[Record], out: Path) -> None:
    with ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for suffix, text in to.write(records):
            if suffix not in files:
                if len(files) == MOST_OPEN:
                    stack.close()
                    files.clear()
                path = Path(f"{out}{suffix}")
                path.parent.mkdir(parents=True, exist_ok=True)
                files[suffix] = stack.enter_context(open(path, "a", encoding="utf-8", newline=""))
            files[suffix].write(text)


def _write_parquet(to: Format, records: Iterable[Record], out: Path) -> None:
    """The types of columns are those of the first rows."""
    arrow = need("pyarrow", "formats", "a Parquet file")
    parquet = need("pyarrow.parquet", "formats", "a Parquet file")
    rows = iter(to.write(records))
    with ExitStack() as stack:
        schema = writer = None
        while some := [*itertools.islice(rows, AT_A_TIME)]:
            try:
                table = arrow.Table.from_pylist(some, schema=schema)
            except arrow.ArrowException as error:
                raise UserError(
                    f"a column has values of several types ({error}); choose .jsonl"
                ) from None
            _check_columns(some, table.column_names)
            if writer is None:
                schema = table.schema
                writer = stack.enter_context(parquet.ParquetWriter(out, schema))
            writer.write_table(table)


def _open(path: Path, name: str) -> IO[str]:
    ending = name[len(uncompressed_name(name)) :]
    if ending and ending not in PACKERS:
        raise UserError(f"--out: {ending} cannot be written; choose one of {few(PACKERS)}")
    opener = PACKERS.get(ending, open)
    packed: IO[str] = opener(path, "wt", encoding="utf-8", newline="")
    return packed


def _records(source: Files, to: Format, counts: Counter[str]) -> Iterator[tuple[str, Record]]:
    empty = True
    for unit in source.units():
        for named in source.whole(unit, to.written, counts):
            empty = False
            yield named
    if empty:
        raise empty_corpus(source, counts)


def checked(named: Iterable[tuple[str, Record]], to: Format) -> Iterator[Record]:
    """The records, where the format has a place for all that they have. Raises `UserError`."""
    name = type_name(type(to))
    for place, record in named:
        for column in [*to.written, *LOST]:
            if column in to.written and record.get(column) is None and column != "id":
                raise UserError(
                    f"{place}: has no {column}, which {name} needs; choose another --to"
                )
            if column in LOST - {*to.keeps} and record.get(column) is not None:
                raise UserError(f"{place}: {name} has no place for {column}; choose another --to")
        yield record


def _counted(records: Iterable[Record], counts: Counter[str]) -> Iterator[Record]:
    for record in records:
        counts["records"] += 1
        yield record


def pieces(to: Format, records: Iterable[Record], ending: str) -> Iterator[str]:
    """The text of a file in pieces."""
    written = to.write(records)
    if to.reads == "lines":
        return (f"{line}\n" for line in written)
    if ending not in ROWS:
        raise UserError(f"--out: {ending or 'no ending'}: choose one of {few(ROWS)} for rows")
    if ending == ".jsonl":
        return (f"{_json(row)}\n" for row in written)
    if ending == ".json":
        return _json_file(to, written)
    return _table(to, written, "\t" if ending == ".tsv" else ",")


def _json_file(to: Format, rows: Iterable[Any]) -> Iterator[str]:
    begin, end = "[\n", "\n]\n"
    if to.head is not None:
        begin, end = f'{_json(dict(to.head))[:-1]}, "data": [\n', "\n]}\n"
    yield begin
    for number, row in enumerate(rows):
        yield (",\n" if number else "") + _json(row)
    yield end


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _table(to: Format, rows: Iterable[dict[str, Any]], delimiter: str) -> Iterator[str]:
    """A header and rows; what is not text or a number is its JSON, where the format reads that."""
    line = _Line()
    writer = csv.writer(line, delimiter=delimiter, lineterminator="\n")
    names: list[str] = []
    for row in rows:
        if not names:
            names = [*row]
            writer.writerow(names)
            yield line.text
        _check_columns([row], names)
        cells = [row.get(name) for name in names]
        lists = [n for n, c in zip(names, cells, strict=True) if isinstance(c, list | dict)]
        if lists and not to.cells:
            name = type_name(type(to))
            raise UserError(f"{name} cannot read {few(lists)} from a table's cells; choose .jsonl")
        if delimiter == "\t" and any("\t" in str(cell) and "\n" in str(cell) for cell in cells):
            raise UserError("a text has tabs and line ends, which TSV cannot have; choose .csv")
        writer.writerow([_json(c) if isinstance(c, list | dict | bool) else c for c in cells])
        yield line.text


def _check_columns(rows: Iterable[dict[str, Any]], names: Collection[str]) -> None:
    if more := [name for row in rows for name in row if name not in names]:
        raise UserError(f"rows have other columns ({few(more)}) than the first; choose .jsonl")


class _Line:
    """The last line that a `csv.writer` wrote."""

    text = ""

    def write(self, text: str) -> None:
        self.text = text
