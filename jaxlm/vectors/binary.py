"""word2vec's binary format: a line with the sizes, then each word, a space and its numbers.

    b"2 3\nking " + 3 float32 (little-endian) + b"\nqueen " + 3 float32 + b"\n"

The line break after a vector, which word2vec.c writes and others leave out, is optional. The file
is mapped, not read: the matrix alone takes memory.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import IO

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.vectors.table import WordVectors
from jaxlm.vectors.text import BLOCK, Report, check_sizes, header, opened, unique, writable

LONGEST_WORD = 4096  # bytes: without a space in so many, it is not a word


def read_binary(path: Path, *, report: Report = print) -> WordVectors:
    """The table of a binary file. Raises `UserError` with the number of the word that is wrong."""
    with opened(path) as file:
        if path.suffix == ".gz" or not path.stat().st_size:  # an empty file cannot be mapped
            return _read(path, file.read(), report)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(path, data, report)


def _read(path: Path, data: bytes | mmap.mmap, report: Report) -> WordVectors:
    end = data.find(b"\n")
    said = header(data[: min(max(end, 0), LONGEST_WORD)])
    if said is None:
        raise UserError(
            f"{path}: line 1 is not a number of words and a number of dimensions; the file has "
            "another format"
        )
    words, size = said
    check_sizes(path, words, size, least_bytes=4 * size + 2)
    rows, names, place = np.empty((words, size), np.float32), [], end + 1
    for i in range(words):
        space = data.find(b" ", place, place + LONGEST_WORD)
        if space < 0 or space + 1 + 4 * size > len(data):
            raise UserError(
                f"{path}: word {i + 1:,} of {words:,}: the file ends, or has no word there; it is "
                "cut, or has another format"
            )
        word = data[place:space].lstrip(b"\n")
        try:
            names.append(word.decode())
        except UnicodeDecodeError:
            raise UserError(
                f"{path}: word {i + 1:,} of {words:,}: {shown(word)} is not UTF-8; the file has "
                "another format, or other sizes than line 1 says"
            ) from None
        rows[i] = np.frombuffer(data, "<f4", size, space + 1)
        place = space + 1 + 4 * size
    if (left := len(data) - place) > 1:
        raise UserError(f"{path}: {left:,} bytes follow the {words:,} words; correct line 1")
    return unique(path, names, rows, report)


def write_binary(table: WordVectors, file: IO[bytes]) -> None:
    """Writes the table as word2vec.c does, with a line break after each vector."""
    file.write(f"{len(table)} {table.size}\n".encode())
    for begin in range(0, len(table), BLOCK):
        rows = table.vectors[begin : begin + BLOCK].astype("<f4")
        parts = (
            b"%s %s\n" % (writable(word).encode(), row.tobytes())
            for word, row in zip(table.words[begin : begin + BLOCK], rows, strict=True)
        )
        file.write(b"".join(parts))
