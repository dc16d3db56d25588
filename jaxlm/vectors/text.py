"""Word vectors as text: a line a word, the word first.

    2 3                       # word2vec and fastText: words and dimensions; GloVe has no such line
    king 0.5 -0.25 1
    queen 0.5 0.25 1

The file is read line by line into one matrix: besides that, one line is in memory. A word may have
spaces (GloVe's 840B file has such words): a line's last D fields are its numbers.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.vectors.table import WordVectors

BLOCK = 4096  # rows that are written together
Report = Callable[[str], None]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file, decompressed where its name ends in .gz. Raises `UserError` where that fails."""
    if path.suffix != ".gz":
        with open(path, "rb") as plain:
            yield plain
        return
    try:
        with gzip.open(path) as file:
            yield file  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be decompressed ({error}); copy it again") from None


def header(line: bytes) -> tuple[int, int] | None:
    """(words, dimensions) of a first line that says them; None: it is a word's."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None
    return int(fields[0]), int(fields[1])


def read_text(path: Path, *, has_header: bool, report: Report = print) -> WordVectors:
    """The table of a text file. Of a word that comes twice, the first line is taken.

    Raises `UserError` with the number of the first line that is wrong.
    """
    with opened(path) as file:
        first = file.readline()
        said = header(first) if has_header else None
        if said is None and has_header:
            raise UserError(
                f"{path}: line 1: {shown(_text(first))} is not a number of words and a number of "
                "dimensions; if the file has no such line, name its format: glove"
            )
        if said is None:
            words, size = 1 + sum(1 for _ in file), _dimensions(first)
            if not size:
                raise UserError(
                    f"{path}: line 1: {shown(_text(first))} is not a word and its numbers; name a "
                    "file of word vectors"
                )
            file.seek(0)
        else:
            words, size = said
        check_sizes(path, words, size, least_bytes=2 * size + 2)
        rows = np.empty((words, size), np.float32)
        names = list(_lines(path, file, rows, begin=1 if said is None else 2))
        if said is not None and len(names) < words:
            raise UserError(
                f"{path}: ends after {len(names):,} words, and line 1 says {words:,}; the file is "
                "cut, copy it again"
            )
        if said is not None and file.readline().strip():
            raise UserError(
                f"{path}: line {words + 2:,}: has another word, and line 1 says {words:,}; correct "
                "line 1"
            )
    return unique(path, names, rows[: len(names)], report)


def check_sizes(path: Path, words: int, size: int, least_bytes: int) -> None:
    """Raises `UserError` for sizes that the file cannot have, before memory is taken for them.

    least_bytes: the shortest that the line of one word can be.
    """
    if words < 1 or size < 1:
        raise UserError(f"{path}: line 1: {words} words of {size} dimensions make no table")
    found = path.stat().st_size
    if path.suffix != ".gz" and words * least_bytes > found + 2:
        raise UserError(
            f"{path}: line 1: says {words:,} words of {size:,} dimensions, and the file has "
            f"{found:,} bytes; it is cut, or has another format"
        )


def unique(path: Path, names: list[str], rows: np.ndarray, report: Report) -> WordVectors:
    """The table without the words that come again, which `report` counts."""
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        word = names[int(np.argmin(finite))]
        raise UserError(f"{path}: the vector of {shown(word)} has a number that is not finite")
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        seen.setdefault(name, i)
    if len(seen) < len(names):
        report(f"{path}: {len(names) - len(seen):,} words come again and are left out")
        return WordVectors(list(seen), rows[list(seen.values())])
    return WordVectors(names, rows)


def write_text(
    table: WordVectors, file: IO[bytes], *, has_header: bool, digits: int = 9, end: str = ""
) -> None:
    """Writes a line a word. 9 digits give each float32 back; `end` is in front of each line break.

    Raises `UserError` for a word that a line cannot have.
    """
    if has_header:
        file.write(f"{len(table)} {table.size}\n".encode())
    number = f"%.{digits}g"
    row = " ".join([number] * table.size)
    for begin in range(0, len(table), BLOCK):
        words = table.words[begin : begin + BLOCK]
        rows = table.vectors[begin : begin + BLOCK].tolist()
        lines = (
            f"{writable(word)} {row % tuple(numbers)}{end}\n"
            for word, numbers in zip(words, rows, strict=True)
        )
        file.write("".join(lines).encode())


def writable(word: str) -> str:
    """The word. Raises `UserError` where a reader would not find it again."""
    if word.encode().split() != [word.encode()]:  # by ASCII spaces, as readers split
        raise UserError(
            f"{shown(word)}: is not one word, which a file of vectors needs; use a tokenizer of "
            "words without n-grams"
        )
    return word


def _dimensions(line: bytes) -> int:
    """The numbers that a line ends with; its first field is a word whatever it is."""
    fields = line.split()[1:]
    return sum(1 for _ in itertools.takewhile(_is_number, reversed(fields)))


def _lines(path: Path, file: Iterable[bytes], rows: np.ndarray, begin: int) -> Iterator[str]:
    """The words of as many lines as there are rows, whose numbers are written to `rows`."""
    size = rows.shape[1]
    for i, line in zip(range(len(rows)), file, strict=False):
        where = f"{path}: line {i + begin:,}"
        fields = line.rsplit(None, size)
        try:
            numbers = [*map(float, fields[1:])]
            word = fields[0].decode()
        except (ValueError, IndexError) as error:
            raise UserError(f"{where}: {_wrong(fields, size, error)}; correct the line") from None
        if len(numbers) != size or (b" " in fields[0] and _is_number(fields[0].split()[-1])):
            found = len(line.split()) - 1
            raise UserError(
                f"{where}: has {found} numbers, and the lines before have {size}; correct the line"
            )
        if not math.isfinite(sum(numbers)):
            raise UserError(f"{where}: has a number that is not finite; correct the line")
        rows[i] = numbers
        yield word


def _wrong(fields: list[bytes], size: int, error: Exception) -> str:
    """What is wrong with a line whose fields could not be read."""
    if len(fields) <= size:
        return f"has {max(len(fields) - 1, 0)} numbers, and the lines before have {size}"
    if isinstance(error, UnicodeDecodeError):
        return f"the word {shown(fields[0])} is not UTF-8"
    bad = next(field for field in fields[1:] if not _is_number(field))
    return f"{shown(_text(bad))} is not a number"


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _text(line: bytes) -> str:
    return line.decode(errors="replace").strip()
