"""A binary file of an n-gram model, opened by memory map: a query reads the pages it needs.

    write_binary(model, words, "model.ngrams")
    model, words = read_binary("model.ngrams")          # a model as any other
    model.log_probs(tokens)

The file has these parts, little-endian, each of which begins at a multiple of 64 bytes:

    magic       16 bytes, "jaxlm n-grams 1\\n"
    size        uint64: bytes of the header
    header      JSON: order, vocab_size, bos, and for each part its dtype, length, place and CRC-32
    words       the words of the ids, JSON, UTF-8
    N.key       uint64: number of the context * vocab_size + token, sorted (`jaxlm.ngrams.counting`)
    N.log_prob  float32, natural logarithms; or uint8, places in N.log_prob.book
    N.backoff   the same; the highest order has none

with N from 1 on. The header ends with its own CRC-32, and names the size of the file. A quantised
file (`bits=8`) has two bytes of values for each n-gram instead of eight: a book has 256 means of
equally many n-grams (as KenLM's binning), and zeros and infinities as they are.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.files import disk_errors, fsync_folder
from jaxlm.ngrams.model import Level, NgramModel

MAGIC = b"jaxlm n-grams 1\n"
ALIGNED = 64
CHUNK = 1 << 20  # values that are written or checked at a time

Columns = Iterable[np.ndarray]  # one array in pieces


@dataclass(frozen=True)
class Values:
    """The numbers of an order in pieces, as `write_parts` gets them; read once each."""

    key: Columns
    log_prob: Columns
    backoff: Columns | None  # None: the highest order


def write_binary(
    model: NgramModel, words: Sequence[str], path: str | Path, *, bits: int = 32
) -> None:
    """Writes a model; `words` names each id. bits: 32, or 8 for quantised values."""
    values = [
        Values(
            _pieces(level.key),
            _pieces(level.log_prob),
            None if n == model.order else _pieces(level.backoff),
        )
        for n, level in enumerate(model.levels, start=1)
    ]
    write_parts(path, values, words, vocab_size=model.vocab_size, bos=model.bos, bits=bits)


def write_parts(
    path: str | Path,
    levels: Sequence[Values],
    words: Sequence[str],
    *,
    vocab_size: int,
    bos: int,
    bits: int = 32,
) -> None:
    """Writes the file from pieces of each array, so that it may be larger than the memory (the
    values of one order, if they are quantised, are in memory).
    """
    if bits not in (8, 32):
        raise UserError(f"bits: {bits} is neither 32 (float32) nor 8 (quantised)")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    body = path.with_name(f".{path.name}.{os.getpid()}.body.tmp")
    try:
        with disk_errors(path), open(body, "w+b") as parts, open(temporary, "wb") as file:
            table = _write_body(parts, levels, words, bits)
            head = {"order": len(levels), "vocab_size": vocab_size, "bos": bos, "parts": table}
            _write_head(file, head, parts)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
            fsync_folder(path.parent)
    finally:
        for each in (temporary, body):
            each.unlink(missing_ok=True)


def read_binary(path: str | Path, *, verify: bool = False) -> tuple[NgramModel, list[str]]:
    """(the model, the word of each id). Its arrays are mapped, and pages are read when asked for.

    The header, the words and the size of the file are always checked; `verify` reads all bytes and
    compares them with their checksums. Raises `UserError` for a file that is not whole.
    """
    path = Path(path)
    with disk_errors(path), open(path, "rb") as file:
        head, start = _read_head(path, file)
        for name, part in head["parts"].items():
            if verify or name == "words" or name.endswith(".book"):
                _check(path, file, name, part, start)
        parts = {name: _mapped(path, part, start) for name, part in head["parts"].items()}
    words = json.loads(parts.pop("words").tobytes())
    levels = []
    for n in range(1, head["order"] + 1):
        backoff = _values(parts, f"{n}.backoff")
        key = parts[f"{n}.key"]
        if backoff is None:
            backoff = np.broadcast_to(np.float32(0), key.shape)
        levels.append(Level(key, _values(parts, f"{n}.log_prob"), backoff))
    return NgramModel(levels, head["vocab_size"], head["bos"]), words


@dataclass(frozen=True)
class Quantised:
    """An array of places in a book of values, which reads as the array of values."""

    places: np.ndarray  # [M] uint8
    book: np.ndarray  # [256] float32

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.book[self.places[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32)

    def copy(self) -> np.ndarray:
        return self[:]


def quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places [M] uint8, book [256] float32): means of equally many finite values each; 0 and -inf
    have places of their own.
    """
    values = values.astype(np.float32)
    book = np.zeros(256, np.float32)
    book[255] = -np.inf
    plain = np.isfinite(values) & (values != 0)
    ordered = np.sort(values[plain])
    groups = [g for g in np.array_split(ordered, 254) if len(g)]
    means = np.unique(np.array([g.mean(dtype=np.float64) for g in groups], np.float32))
    book[1 : 1 + len(means)] = means
    places = np.where(values == 0, 0, 255).astype(np.uint8)
    if len(means):
        nearest = np.searchsorted((means[1:] + means[:-1]) / 2, values[plain])
        places[plain] = 1 + nearest
    return places, book


# ------------------------------------------------------------------------------------------ parts


def _write_body(
    file: IO[bytes], levels: Sequence[Values], words: Sequence[str], bits: int
) -> dict[str, Any]:
    """Writes all parts; returns their table."""
    table: dict[str, Any] = {}

    def put(name: str, pieces: Columns, dtype: str) -> None:
        file.write(b"\0" * (-file.tell() % ALIGNED))
        place, crc, length = file.tell(), 0, 0
        for piece in pieces:
            data = np.ascontiguousarray(piece, dtype)
            file.write(data.data)
            crc, length = zlib.crc32(data.data, crc), length + len(data)
        table[name] = {"dtype": dtype, "length": length, "place": place, "crc32": crc}

    put("words", [np.frombuffer(json.dumps(list(words)).encode(), np.uint8)], "|u1")
    for n, level in enumerate(levels, start=1):
        put(f"{n}.key", level.key, "<u8")
        for name, pieces in (("log_prob", level.log_prob), ("backoff", level.backoff)):
            if pieces is not None and bits == 8:
                parts = [np.asarray(p, np.float32) for p in pieces]
                places, book = quantised(np.concatenate(parts) if parts else np.zeros(0))
                put(f"{n}.{name}", [places], "|u1")
                put(f"{n}.{name}.book", [book], "<f4")
            elif pieces is not None:
                put(f"{n}.{name}", pieces, "<f4")
    return table


def _write_head(file: IO[bytes], head: dict[str, Any], parts: IO[bytes]) -> None:
    """The header, and then the parts."""
    text = json.dumps({**head, "body": parts.tell()}).encode()
    text += b"%08x" % zlib.crc32(text)
    file.write(MAGIC + np.uint64(len(text)).astype("<u8").tobytes() + text)
    file.write(b"\0" * (-file.tell() % ALIGNED))
    parts.seek(0)
    while piece := parts.read(CHUNK):
        file.write(piece)


def _read_head(path: Path, file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """(the header, where the parts begin)"""
    if file.read(len(MAGIC)) != MAGIC:
        raise UserError(
            f"{path}: not a binary file of n-grams, which `jaxlm ngrams` and write_binary write; "
            "an ARPA file has a name that ends in .arpa or .arpa.gz"
        )
    size = int.from_bytes(file.read(8), "little")
    text = file.read(size) if size < 1 << 40 else b""
    if len(text) < 8 or len(text) != size or b"%08x" % zlib.crc32(text[:-8]) != text[-8:]:
        raise _damaged(path, "the header is not as it was written")
    head = json.loads(text[:-8])
    start = file.tell() + -file.tell() % ALIGNED
    found = os.fstat(file.fileno()).st_size
    if found != start + head["body"]:
        raise _damaged(path, f"{found} bytes where {start + head['body']} were written")
    return head, start


def _check(path: Path, file: IO[bytes], name: str, part: dict[str, Any], start: int) -> None:
    file.seek(start + part["place"])
    left, crc = part["length"] * np.dtype(part["dtype"]).itemsize, 0
    while left and (piece := file.read(min(left, CHUNK))):
        crc, left = zlib.crc32(piece, crc), left - len(piece)
    if crc != part["crc32"]:
        raise _damaged(path, f"the bytes of {name} have changed")


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: damaged, {reason}; make the file again")


def _mapped(path: Path, part: dict[str, Any], start: int) -> np.ndarray:
    if not part["length"]:
        return np.zeros(0, part["dtype"])
    place = start + part["place"]
    found = np.memmap(path, part["dtype"], "r", offset=place, shape=(part["length"],))
    return found.view(np.ndarray)  # slices of a plain array are several times quicker


def _values(parts: dict[str, np.ndarray], name: str) -> Any:
    """An array of values, quantised or not; None: the file has none of this name."""
    found = parts.get(name)
    book = parts.get(f"{name}.book")
    return found if book is None or found is None else Quantised(found, book)


def _pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[at : at + CHUNK] for at in range(0, len(values), CHUNK))
