"""Bytes of a file as checked text, documents and rows. No reader holds more than it must.

Text is decoded strictly: a byte that does not belong is an error with the file and the byte's
offset, never a replacement character. Line ends are kept as they are.

    with open_file(Path("corpus.txt.zst")) as file:
        for text in split_documents(decode(file, "corpus.txt.zst"), "<|endoftext|>"):
            ...
"""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from jaxlm.core.config import UserError, suggest
from jaxlm.data.sources.compressed import read_blocks, uncompressed_name

MAX_DOCUMENT_CHARS = 1 << 28  # of one document, by default


def decode(file: IO[bytes], where: str, encoding: str = "utf-8") -> Iterator[str]:
    """Pieces of the file's text, without a leading byte order mark.

    Raises `UserError` for a NUL (a binary file) and for bytes that are not `encoding`.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    done = 0
    for block in itertools.chain(read_blocks(file, where), [b""]):
        held = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _undecodable(where, encoding, block, done - held + error.start, error) from None
        if "\0" in text:
            raise _binary(where, block)
        if text:
            yield text if done else text.removeprefix("\ufeff")
        done += len(block)


_MARKS = (  # byte order marks; that of utf-32 begins with that of utf-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _binary(where: str, block: bytes) -> UserError:
    if encoding := _wide_encoding(block):
        return UserError(f"{where}: is {encoding.upper()} text; set encoding: {encoding}")
    return UserError(f"{where}: a binary file (it holds NUL bytes); name text files only")


def _wide_encoding(block: bytes) -> str | None:
    """The encoding of text in units of 2 or 4 bytes; None for anything else."""
    for mark, encoding in _MARKS:
        if block.startswith(mark):
            return encoding
    # Without a mark, text with mostly Latin characters has a NUL in every second byte.
    head = block[:4096]
    for encoding, zero in (("utf-16-le", 1), ("utf-16-be", 0)):
        nul, other = head[zero::2], head[1 - zero :: 2]
        if nul and nul.count(0) > 0.7 * len(nul) and other.count(0) == 0:
            return encoding
    return None


def _undecodable(
    where: str, encoding: str, block: bytes, offset: int, error: UnicodeDecodeError
) -> UserError:
    if b"\0" in block and not encoding.lower().startswith(("utf-16", "utf-32", "utf16", "utf32")):
        return _binary(where, block)
    if wide := _wide_encoding(block):
        return UserError(f"{where}: is {wide.upper()} text, not {encoding}; set encoding: {wide}")
    byte = f"0x{error.object[error.start]:02x}"
    return UserError(
        f"{where}: byte {byte} at offset {offset} is not {encoding} ({error.reason}); "
        "convert the file to UTF-8, or set the source's encoding (old files are often latin-1)"
    )


def split_documents(
    pieces: Iterable[str],
    separator: str | None,
    where: str = "text",
    most: int = MAX_DOCUMENT_CHARS,
) -> Iterator[str]:
    """The documents between separators, which are dropped; the whole text without a separator.

    Raises `UserError` for a document of more than `most` characters, before it is read to its end.
    """
    rest: list[str] = []  # of the document that is not yet complete
    held = 0  # characters in `rest`
    for piece in pieces:
        if separator is None:
            complete, open_end = [], piece
        else:
            # A separator may straddle two pieces: look for it from just before the border.
            tail = rest.pop() if rest else ""
            held -= len(tail)
            *complete, open_end = (tail + piece).split(separator)
        if complete:
            _check_length(max(held + len(complete[0]), *map(len, complete)), separator, where, most)
            yield "".join([*rest, complete[0]])
            yield from complete[1:]
            rest, held = [], 0
        cut = max(0, len(open_end) - len(separator or " ") + 1)
        rest += [open_end[:cut], open_end[cut:]]
        held += len(open_end)
        _check_length(held, separator, where, most)
    yield "".join(rest)


def _check_length(held: int, separator: str | None, where: str, most: int) -> None:
    if held > most:
        fix = "set document_separator to split it" if separator is None else "split it"
        raise too_long(f"{where}: a document", most, fix)


def too_long(what: str, most: int, fix: str) -> UserError:
    return UserError(
        f"{what} has more than {most:,} characters; {fix}, or raise max_document_chars"
    )


def lines(
    pieces: Iterable[str], where: str = "text", most: int = MAX_DOCUMENT_CHARS
) -> Iterator[str]:
    """The lines of a text, each with its "\\n". Raises `UserError` for one of more than `most`
    characters, before it is read to its end.
    """
    rest: list[str] = []
    held, number = 0, 1
    for piece in pieces:
        *complete, open_end = piece.split("\n")
        for line in complete:
            if held + len(line) > most:
                raise _long_line(where, number, most)
            yield "".join([*rest, line, "\n"]) if rest else line + "\n"
            rest, held = [], 0
            number += 1
        if open_end:
            rest.append(open_end)
            held += len(open_end)
        if held > most:
            raise _long_line(where, number, most)
    if rest:
        yield "".join(rest)


def _long_line(where: str, number: int, most: int) -> UserError:
    return too_long(f"{where}:{number}: a line", most, "split the text in it")


Row = tuple[str, Mapping[str, Any]]  # where it is ("file:line"), and its columns


def jsonl_rows(pieces: Iterable[str], where: str, most: int = MAX_DOCUMENT_CHARS) -> Iterator[Row]:
    """A JSON object a line; empty lines are passed over."""
    for number, line in enumerate(lines(pieces, where, most), start=1):
        if line.strip():
            yield f"{where}:{number}", json_object(line, f"{where}:{number}")


def json_object(line: str, here: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line.rstrip("\r\n"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{here}: not JSON ({_reason(error)}); fix or remove the line") from None
    if not isinstance(row, dict):
        raise UserError(
            f"{here}: holds a {type(row).__name__}; a line must be a JSON object of named columns"
        )
    if isinstance(row, _Doubled):
        raise UserError(f"{here}: names the column {row.name!r} twice; rename or remove one")
    return row


class _Doubled(dict[str, Any]):
    """A JSON object that has a key more than once."""

    name: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    doubled, seen = _Doubled(row), set()
    for name, _ in pairs:
        if name in seen:
            doubled.name = name
        seen.add(name)
    return doubled


def _reason(error: ValueError | RecursionError) -> str:
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


def check_characters(text: str, here: str, what: str = "") -> None:
    """Raises `UserError` for half of a surrogate pair, which is not a character and has no UTF-8.

    JSON and YAML can spell one, and some encodings ("unicode_escape") give one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise UserError(f"{here}: {what}half a surrogate pair ({half}); fix or remove it") from None


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
    if delimiter is None:
        is_tab = uncompressed_name(where).lower().endswith((".tsv", ".tab", ".txt"))
        delimiter = "\t" if is_tab else ","
    check_joined = quotes is None and delimiter == "\t"
    quotes = quotes is not False
    csv.field_size_limit(sys.maxsize)  # Python's limit of 128 KiB is less than many a document
    bounded = _RowLines(lines(pieces, where, most), where, most)
    reader = csv.reader(
        bounded,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=quotes,
    )
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
                    f"{here}: {len(cells)} cells for {len(names)} columns ({', '.join(names)}); "
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
        raise UserError(f"{here}: no column {column!r}; {suggest(column, known)}") from None


def _printable(text: str) -> bool:
    return all(not "\ud800" <= c <= "\udfff" for c in text)


def _other_delimiter(names: Sequence[str], cells: Sequence[str], column: str = "") -> str | None:
    """What to set where one cell looks like several, with another delimiter between them."""
    for delimiter, spelt in ((";", ";"), ("\t", "\\t"), (",", ","), ("|", "|")):
        if len(names) == 1:
            parts = [p.strip().strip('"') for p in names[0].split(delimiter)]
            fits = len(parts) > 1 and (not column or column in parts)
        else:
            fits = len(cells) == 1 and len(cells[0].split(delimiter)) == len(names)
        if fits:
            return f'set delimiter: "{spelt}", which is between its cells'
    return None
