"""Compressed files as streams of bytes: .gz, .zst, .bz2, .xz. No file is unpacked as a whole.

    with open_file(Path("corpus.txt.zst")) as file:
        for block in read_blocks(file, "corpus.txt.zst"):
            ...

A few kilobytes may unpack to more than the memory, so a block has a size, and so has the window
that a decompressor keeps. A file that is cut or damaged is an error that names it.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from jaxlm.core.config import UserError
from jaxlm.core.optional import need

BLOCK = 1 << 20  # bytes read at a time
MAX_WINDOW = 1 << 29  # bytes that an .xz file may ask its reader to keep; xz -9 asks for 2**26


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a local file, decompressed by its ending."""
    with contextlib.ExitStack() as stack:
        try:
            raw: Any = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; check the path and its rights") from None
        yield stack.enter_context(decompress(raw, str(path)))


@contextlib.contextmanager
def decompress(raw: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """`raw` without the compression that the ending of `name` says."""
    opener = OPENERS.get(name[len(uncompressed_name(name)) :])
    if opener is None:
        yield raw
        return
    with opener(raw, name) as file:
        yield file


def uncompressed_name(name: str) -> str:
    """`name` without its compression's ending: "rows.tsv.gz" -> "rows.tsv"."""
    return next((name.removesuffix(end) for end in OPENERS if name.endswith(end)), name)


def read_blocks(file: IO[bytes], where: str) -> Iterator[bytes]:
    """The file's bytes, a block at a time; damage in a compressed file is a `UserError`."""
    while True:
        try:
            block = file.read(BLOCK)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise _damaged(where, error) from None
        if not block:
            return
        yield block


def _damaged(where: str, error: Exception) -> UserError:
    return UserError(f"{where}: cannot be read to its end ({error}); replace the damaged file")


def _gzip(raw: IO[bytes], name: str) -> Any:
    return gzip.GzipFile(fileobj=raw)


def _bz2(raw: IO[bytes], name: str) -> Any:
    return bz2.BZ2File(raw)


def _xz(raw: IO[bytes], name: str) -> Any:
    # LZMAFile takes no limit, so the start of the file is read with one.
    head = raw.read(4096)
    raw.seek(0)
    try:
        lzma.LZMADecompressor(memlimit=MAX_WINDOW).decompress(head, max_length=1)
    except lzma.LZMAError as error:
        if "Memory" in str(error):
            fix = f"pack it with a dictionary of less than {MAX_WINDOW >> 20} MiB"
            raise UserError(f"{name}: needs too much memory to be unpacked; {fix}") from None
    return lzma.LZMAFile(raw)


def _zstd(raw: IO[bytes], name: str) -> Any:
    # The package zstandard reads a cut file without an error; Arrow does not.
    arrow = need("pyarrow", "formats", name)
    return arrow.CompressedInputStream(arrow.PythonFile(raw, mode="r"), "zstd")


OPENERS: dict[str, Callable[[IO[bytes], str], Any]] = {
    ".gz": _gzip,
    ".bz2": _bz2,
    ".xz": _xz,
    ".zst": _zstd,
}
