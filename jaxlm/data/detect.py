"""Looks at a user's files: their format and encoding, columns, script and amount of text.

    found = detect(["reviews.csv"])
    found.kind, found.text_column, found.label_column      # "csv", "review", "stars"

`source_of(found)` is the source that reads them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.errors import few
from jaxlm.core.optional import need
from jaxlm.data.formats.shapes import Start
from jaxlm.data.reading.compressed import open_file, uncompressed_name
from jaxlm.data.reading.files import match_files
from jaxlm.data.reading.rows import csv_rows, first_cells, jsonl_rows
from jaxlm.data.reading.text import WIDE, are_wide, decode, script_of

KINDS = {
    **dict.fromkeys((".csv", ".tsv", ".tab"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".parquet": "parquet",
}
ENCODINGS = ("utf-8", "utf-16", "gb18030", "cp1252")  # tried in this order
TEXT_NAMES = (
    "text",
    "sentence",
    "content",
    "review",
    "document",
    "body",
    "comment",
    "message",
    "tweet",
    "title",
)
LABEL_NAMES = (
    "label",
    "class",
    "category",
    "sentiment",
    "target",
    "topic",
    "intent",
    "polarity",
    "stars",
    "rating",
)
SEPARATORS = ("\n\n", "\r\n\r\n", "\n", "\r\n")
MOST_CLASSES = 50
SAMPLE = 20_000  # rows, or characters of a text, that are looked at more closely


@dataclass(frozen=True, kw_only=True)
class Found:
    """The contents of some files."""

    files: tuple[str, ...]  # as they were given
    kind: str  # the type of the source: text, csv, jsonl, parquet or files
    encoding: str = "utf-8"
    delimiter: str | None = None  # of a CSV whose delimiter is not the usual one
    header: tuple[str, ...] = ()  # the columns of a CSV without a header line
    columns: tuple[str, ...] = ()
    text_column: str | None = None
    label_column: str | None = None
    classes: tuple[str, ...] = ()
    num_texts: int = 0  # files or rows
    num_chars: int = 0
    long_text: int = 0  # characters of a long text: 95% are at most as long
    script: str = "LATIN"
    separator: str | None = None  # what divides a single text into many
    opening: str = ""
    start: Start | None = None  # how to train on the records, where the files' format is recognised
    format: str | None = None  # "x.jsonl: alpaca (instruction, output)"

    @property
    def is_wide(self) -> bool:
        return self.script in WIDE


def detect(
    patterns: Sequence[str],
    *,
    with_text: bool = True,
    encoding: str | None = None,
    header: Sequence[str] = (),
) -> Found:
    """Reads the files once. Raises `UserError` where they are not of one kind, or hold no text.

    with_text: a table must have a column of texts; else it may hold lists alone, such as of words,
    or no rows below its first line, which may be a record of a file without a header. encoding: one
    that files which are not UTF-8 probably have, so that it is tried first. header: the columns of
    a CSV whose first line does not name them. Without it, where a table must have texts, a first
    line whose label other rows have too is a row.
    """
    files = match_files(patterns)
    kinds = {name: kind_of(path) for name, path in files.items()}
    if len(set(kinds.values())) > 1:
        first: dict[str, str] = {kind: name for name, kind in reversed(kinds.items())}
        listed = ", ".join(f"{name} is {kind}" for kind, name in first.items())
        raise UserError(f"files of several kinds ({listed}); name files of one kind")
    paths, kind = list(files.values()), next(iter(kinds.values()))
    found = "utf-8" if kind == "parquet" else _encoding(paths, encoding)
    if kind == "text":
        return _texts(tuple(patterns), paths, found)
    return _table(tuple(patterns), paths, kind, found, with_text, header)


def kind_of(path: Path) -> str:
    return KINDS.get(Path(uncompressed_name(path.name).lower()).suffix, "text")


def _encoding(paths: Iterable[Path], probable: str | None) -> str:
    """The first encoding in which all files can be read; the probable one is tried after UTF-8."""
    first: UserError | None = None
    utf_8, *others = ENCODINGS
    for encoding in dict.fromkeys((utf_8, *([probable] if probable else []), *others)):
        try:
            letters: Counter[str] = Counter()
            for path in paths:
                with open_file(path) as file:
                    for piece in decode(file, str(path), encoding):
                        letters.update(filter(str.isalpha, piece[:SAMPLE]))
        except (UserError, UnicodeError) as error:
            first = first or (error if isinstance(error, UserError) else None)
            continue
        if encoding in ("utf-16", "gb18030") and encoding != _likely(letters, encoding, paths):
            continue
        return encoding
    raise first or UserError("the files are not text; name text files or tables")


def _likely(letters: Counter[str], encoding: str, paths: Iterable[Path]) -> str | None:
    """`encoding` where the characters that it gives look like a text of it."""
    if encoding == "utf-16":
        marks = (b"\xff\xfe", b"\xfe\xff")
        return encoding if all(path.read_bytes()[:2] in marks for path in paths) else None
    return encoding if are_wide(letters) else None


def script_mostly(text: str) -> str:
    letters = Counter(c for c in text if c.isalpha())
    scripts: Counter[str] = Counter()
    for char, number in letters.items():
        scripts[script_of(char)] += number
    wide = sum(scripts[name] for name in WIDE)
    if wide > letters.total() / 3:
        return max(WIDE, key=lambda name: scripts[name])
    return scripts.most_common(1)[0][0] if scripts else "?"


def _texts(patterns: tuple[str, ...], paths: Sequence[Path], encoding: str) -> Found:
    size, sample = 0, ""
    pieces: Counter[str] = Counter()
    for path in paths:
        with open_file(path) as file:
            for text in decode(file, str(path), encoding):
                size += len(text)
                sample = sample if len(sample) > SAMPLE else sample + text[:SAMPLE]
                for separator in SEPARATORS:
                    pieces[separator] += text.count(separator)
    if not sample.strip():
        raise UserError(f"{patterns[0]}: holds no text; name files with text")
    few = len(paths) < 4
    return Found(
        files=patterns,
        kind="text",
        encoding=encoding,
        num_texts=len(paths),
        num_chars=size,
        script=script_mostly(sample),
        separator=next((s for s in SEPARATORS if few and pieces[s] >= 20), None),
        opening=_opening(sample),
    )


def _opening(text: str) -> str:
    """The first two words, which a model of the text can continue."""
    return "".join(c for c in " ".join(text.split()[:2]) if c.isprintable())[:20]


# ------------------------------------------------------------------------------------------ tables


def _table(
    patterns: tuple[str, ...],
    paths: Sequence[Path],
    kind: str,
    encoding: str,
    with_text: bool,
    header: Sequence[str],
) -> Found:
    delimiter = _delimiter(paths[0], encoding) if kind == "csv" else None
    names = _missing_header(paths[0], encoding, delimiter, header) if kind == "csv" else ()
    rows: list[Mapping[str, Any]] = []
    total = 0
    for path in paths:
        for row in _rows(path, kind, encoding, delimiter, names):
            total += 1
            if len(rows) < SAMPLE:
                rows.append(row)
    if not rows and with_text:
        raise no_rows(patterns)
    if not rows:
        return Found(files=patterns, kind=kind, encoding=encoding, delimiter=delimiter)
    columns = tuple(dict.fromkeys(str(name) for row in rows[:100] for name in row))
    text = _text_column(columns, rows)
    if text is None and with_text:
        raise UserError(
            f"{patterns[0]}: no column of texts among {few(columns)}; name a table that has one"
        )
    label = _label_column([name for name in columns if name != text], rows)
    texts = [row[text] for row in rows if isinstance(row.get(text), str)] if text else [""]
    lengths = sorted(map(len, texts))
    values = {str(row[label]).strip() for row in rows if row.get(label)} if label else set()
    if kind == "csv" and with_text and not names and label in values:
        kinds = {text: "text", label: "label"}
        named = [kinds.get(name, f"column_{n}") for n, name in enumerate(columns, 1)]
        return _table(patterns, paths, kind, encoding, with_text, named)
    return Found(
        files=patterns,
        kind=kind,
        encoding=encoding,
        delimiter=delimiter,
        header=tuple(names),
        columns=columns,
        text_column=text,
        label_column=label,
        classes=tuple(sorted(values)),
        num_texts=total,
        num_chars=round(sum(lengths) * total / len(rows)),
        long_text=lengths[int(0.95 * (len(lengths) - 1))],
        script=script_mostly("".join(itertools.islice(texts, 1000))),
        opening=_opening(texts[0]),
    )


def no_rows(patterns: Sequence[str]) -> UserError:
    return UserError(f"{patterns[0]}: holds no rows; name a table with a header and rows")


def _delimiter(path: Path, encoding: str) -> str | None:
    """The delimiter of a CSV, where the header has more of it than of the usual one."""
    with open_file(path) as file:
        head = next(decode(file, str(path), encoding), "").partition("\n")[0]
    usual = "\t" if kind_is_tab(path) else ","
    best = max((usual, ";", "\t", ",", "|"), key=head.count)
    return None if best == usual else best


def kind_is_tab(path: Path) -> bool:
    return uncompressed_name(path.name).lower().endswith((".tsv", ".tab"))


def _missing_header(
    path: Path, encoding: str, delimiter: str | None, header: Sequence[str]
) -> Sequence[str]:
    """The names of the columns, where the first line has as many cells and does not name them."""
    if not header:
        return ()
    with open_file(path) as file:
        first = first_cells(decode(file, str(path), encoding), str(path), delimiter)
    return header if len(first) == len(header) and not {*header} & {*first} else ()


def _rows(
    path: Path, kind: str, encoding: str, delimiter: str | None, header: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    if kind == "parquet":
        parquet = need("pyarrow.parquet", "formats", "a Parquet source")
        for batch in parquet.ParquetFile(path).iter_batches(1024):
            yield from batch.to_pylist()
        return
    with open_file(path) as file:
        pieces = decode(file, str(path), encoding)
        read: Iterable[tuple[str, Mapping[str, Any]]] = (
            csv_rows(pieces, str(path), delimiter=delimiter, columns=header)
            if kind == "csv"
            else jsonl_rows(pieces, str(path))
        )
        yield from (row for _, row in read)


def _text_column(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column that is named as texts are, else the one with the longest texts."""
    found = {
        name: [row[name] for row in rows if isinstance(row.get(name), str)] for name in columns
    }
    texts = {name: values for name, values in found.items() if any(map(_has_letters, values))}
    named = [name for known in TEXT_NAMES for name in texts if name.lower() == known]
    by_length = sorted(texts, key=lambda name: -sum(map(len, texts[name])))
    return next(iter([*named, *by_length]), None)


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))


def _label_column(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The column that is named as labels are and has few values, else one with few values that are
    often repeated.
    """
    few = []
    for name in columns:
        values = [row[name] for row in rows if row.get(name) not in (None, "")]
        if not all(isinstance(value, (str, int, bool)) for value in values):
            continue
        number = len({str(value).strip() for value in values})
        most = MOST_CLASSES if name.lower() in LABEL_NAMES else len(values) // 3
        if 2 <= number <= min(MOST_CLASSES, most):
            few.append(name)
    named = [name for known in LABEL_NAMES for name in few if name.lower() == known]
    return next(iter([*named, *few]), None)


def source_of(found: Found) -> dict[str, Any]:
    """The source of a config that reads the files, as plain values."""
    source: dict[str, Any] = {"type": found.kind, "files": list(found.files)}
    if found.encoding != "utf-8":
        source["encoding"] = found.encoding
    if found.delimiter is not None:
        source["delimiter"] = found.delimiter
    if found.header:
        source["columns"] = list(found.header)
    if found.text_column is not None:
        source["text_column"] = found.text_column
    if found.label_column is not None:
        source["label_column"] = found.label_column
    return source
