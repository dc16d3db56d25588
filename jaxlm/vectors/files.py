"""Files of word vectors, in the formats that other programs have.

    table = read_vectors("glove.6B.50d.txt")             # the format is recognised
    write_vectors(table, "vectors.bin", "word2vec-binary")

| format | what |
|---|---|
| glove | text without a first line of sizes |
| word2vec | text with one |
| fasttext | the same, as fastText writes its .vec: 5 digits, a space before each line break |
| word2vec-binary | word2vec.c's -binary 1, such as GoogleNews-vectors-negative300.bin |
| npy | a numpy matrix, and its words in a text file or a Parquet file of one column |
"""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.errors import looked_from
from jaxlm.core.files import disk_errors
from jaxlm.core.optional import need
from jaxlm.vectors.binary import read_binary, write_binary
from jaxlm.vectors.checking import FASTTEXT_DIGITS, check_vectors
from jaxlm.vectors.table import WordVectors
from jaxlm.vectors.text import Report, header, opened, read_text, unique, write_text

Reader = Callable[[Path, Report], WordVectors]
Writer = Callable[[WordVectors, IO[bytes]], None]

READERS: dict[str, Reader] = {
    "glove": lambda path, report: read_text(path, has_header=False, report=report),
    "word2vec": lambda path, report: read_text(path, has_header=True, report=report),
    "fasttext": lambda path, report: read_text(path, has_header=True, report=report),
    "word2vec-binary": lambda path, report: read_binary(path, report=report),
}
WRITERS: dict[str, Writer] = {
    "glove": lambda table, file: write_text(table, file, has_header=False),
    "word2vec": lambda table, file: write_text(table, file, has_header=True),
    "fasttext": lambda table, file: write_text(
        table, file, has_header=True, digits=FASTTEXT_DIGITS, end=" "
    ),
    "word2vec-binary": write_binary,
}


def read_vectors(
    path: str | Path,
    form: str | None = None,
    *,
    words: str | Path | None = None,
    report: Report = print,
) -> WordVectors:
    """The table of a file. form: one of `READERS`; None: it is recognised by the file's beginning.

    words: with a .npy file, the file of its words. Raises `UserError` for a file that is not as its
    format says.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file of word vectors")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file{looked_from(path)}; check the path")
    with disk_errors(path):
        if path.suffix == ".npy":
            return _read_npy(path, words, report)
        if words is not None:
            raise UserError(f"--words: is for a .npy file, and {path} has its words itself")
        return READERS[form or recognised(path)](path, report)


def recognised(path: Path) -> str:
    """The format of a file, by its first two lines. Raises `UserError` where it has none."""
    with opened(path) as file:
        first, second = file.readline(1 << 20), file.readline(1 << 20)
    said = header(first)
    if said is None:
        if len(first.split()) > 1 and b"\0" not in first:
            return "glove"
        raise UserError(f"{path}: does not begin as a file of word vectors; name another file")
    fields = second.split()
    try:
        [float(x) for x in fields[-said[1] :]]
        is_text = len(fields) > said[1]
    except ValueError:
        is_text = b"\0" not in second and second.isascii()  # a broken line is named by the reader
    return "word2vec" if is_text else "word2vec-binary"


def write_vectors(
    table: WordVectors,
    path: str | Path,
    form: str,
    *,
    check: bool = False,
    report: Report = print,
) -> None:
    """Writes the whole file or nothing, some rows at a time, and its folder.

    form: one of `WRITERS`. A name that ends in .gz gives a compressed file. check: the file is read
    back before it has its name, and `report` gets the largest error; raises `UserError` where the
    format's rounding does not explain it (`jaxlm.vectors.checking`).
    """
    path = Path(path)
    with disk_errors(path), _replaced(path) as temporary:
        with _created(temporary) as file:
            WRITERS[form](table, file)
        if check:
            check_vectors(str(path), table, _read_back(temporary, path, form), form, report)


def _read_back(temporary: Path, path: Path, form: str) -> WordVectors:
    """The table of a file that was just written. Raises `UserError` with the name it is to have."""
    again: list[str] = []  # words that come again: the caller's words differ then
    try:
        return READERS[form](temporary, again.append)
    except UserError as error:
        said = str(error).removeprefix(f"{temporary}: ")
        raise UserError(
            f"{path}: what was written cannot be read back: {said}; nothing was kept (--no-check "
            "writes it in spite of that)"
        ) from None


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """The name of a file to write, which has its own name after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays last: it says whether the file is compressed
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _created(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, compressed where its name ends in .gz, and on the disk after the block."""
    with open(path, "wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield packed  # type: ignore[misc]
        else:
            yield file
        file.flush()
        os.fsync(file.fileno())


def _read_npy(path: Path, words: str | Path | None, report: Report) -> WordVectors:
    if words is None:
        raise UserError(f"{path}: has no words; name the file of its words by --words FILE")
    names = _names(Path(words))
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise UserError(f"{path}: is not a numpy array ({error}); name another file") from None
    if rows.ndim != 2 or len(rows) != len(names) or not np.issubdtype(rows.dtype, np.floating):
        raise UserError(
            f"{path}: holds {rows.dtype} {list(rows.shape)}, and {words} has {len(names):,} words; "
            "name a matrix of floating-point numbers with a row for each word"
        )
    return unique(path, names, rows.astype(np.float32), report)


def _names(path: Path) -> list[str]:
    """The words of a text file, one a line, or of a Parquet file's only column."""
    if not path.is_file():
        raise UserError(f"--words: {path}: there is no such file{looked_from(path)}")
    if path.suffix != ".parquet":
        try:
            return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError:
            raise UserError(f"--words: {path}: is not UTF-8 text, one word a line") from None
    parquet = need("pyarrow.parquet", "formats", "a Parquet file of words")
    table = parquet.read_table(path)
    if table.num_columns != 1:
        raise UserError(f"--words: {path}: has columns {table.column_names}, and needs one")
    return [str(word) for word in table.column(0).to_pylist()]
