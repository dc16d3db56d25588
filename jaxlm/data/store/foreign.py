"""Token files that other programs wrote: nanoGPT's .bin and Megatron's .bin with its .idx.

nanoGPT: nothing but ids, uint16, without a header; where an end-of-text id is given, each one ends
a document (and belongs to it), else the file is one document. llm.c's files have a header of 256
int32 in front (magic, version, tokens), which also says the number type.

Megatron (`MMIDIDX`, version 1), the .idx, little endian:

    9 bytes "MMIDIDX\\0\\0" | uint64 version | uint8 dtype code
    uint64 sequences | uint64 documents + 1
    int32 [sequences] lengths | int64 [sequences] byte places in the .bin
    int64 [documents + 1] first sequence of each document

    documents = read_megatron("corpus_text_document")     # a Documents over the memory-mapped .bin
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.errors import looked_from
from jaxlm.data.store.tokens import Documents, TokenFile

MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
MEGATRON_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
# https://github.com/karpathy/llm.c/blob/master/dev/data/data_common.py: GPT-2's files and Llama 3's
LLMC_MAGICS = (20240520, 20240801)
LLMC_DTYPES = {1: "uint16", 7: "uint32"}  # by version
HEADER_BYTES = 1024
OTHER_FILES = {  # by their first bytes
    b"\x93NUMPY": "a NumPy file",
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b\x08": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    MEGATRON_MAGIC: "the index of a Megatron file (format: megatron)",
}
SCAN = 2**22  # tokens read at a time


def read_nanogpt(path: str | Path, dtype: str = "uint16", eos_id: int | None = None) -> Documents:
    """A file of ids as documents that end with `eos_id`; without it, one document.

    dtype: of a file without llm.c's header.
    """
    path = _existing(Path(path))
    with open(path, "rb") as file:
        begin = file.read(HEADER_BYTES)
    for magic, kind in OTHER_FILES.items():
        if begin.startswith(magic):
            raise UserError(f"{path}: is {kind}, not a file of nothing but ids; write raw ids")
    skip, expected = 0, None
    if found := _header(path, begin):
        skip, (dtype, expected) = HEADER_BYTES, found
    size, item = path.stat().st_size - skip, np.dtype(dtype).itemsize
    if expected is not None and size != expected * item:
        raise UserError(
            f"{path}: its header says {expected} tokens of {dtype}, but {size} bytes follow it; "
            "copy or write it again"
        )
    if size == 0 or size % item:
        raise UserError(
            f"{path}: {size} bytes do not divide into {dtype} tokens; check the file and dtype"
        )
    tokens = TokenFile(path, dtype, skip=skip)
    ends = [np.array([len(tokens)])]
    if eos_id is not None:
        ends = [begin + 1 + np.flatnonzero(chunk == eos_id) for begin, chunk in scan(tokens)]
        ends.append(np.array([len(tokens)]))
    offsets = np.unique(np.concatenate([[0], *ends])).astype(np.int64)
    return Documents(tokens, offsets[:-1], np.diff(offsets), np.arange(len(offsets) - 1))


def _header(path: Path, begin: bytes) -> tuple[str, int] | None:
    """(number type, tokens) of llm.c's header; None where the file has none."""
    magic = int.from_bytes(begin[:4], "little")
    if magic not in LLMC_MAGICS or len(begin) < 12:
        return None
    version, count = struct.unpack_from("<ii", begin, 4)
    if len(begin) < HEADER_BYTES or version not in LLMC_DTYPES:
        known = " and ".join(map(str, LLMC_DTYPES))
        raise UserError(
            f"{path}: has llm.c's magic {magic} but not a whole header of a known version "
            f"(version {version}; known: {known}); write the file again"
        )
    return LLMC_DTYPES[version], count


def read_megatron(path: str | Path) -> Documents:
    """The documents of `path`.bin and `path`.idx (either name, or what they have in common)."""
    base = Path(path)
    base = base.with_suffix("") if base.suffix in (".bin", ".idx") else base
    index, data = _existing(Path(f"{base}.idx")), _existing(Path(f"{base}.bin"))
    raw = index.read_bytes()
    if len(raw) < 34 or raw[:9] != MEGATRON_MAGIC:
        raise UserError(f"{index}: is not a Megatron index (MMIDIDX); check the path and format")
    version, code, sequences, borders = struct.unpack_from("<QBQQ", raw, 9)
    if version != 1 or code not in MEGATRON_DTYPES:
        raise UserError(
            f"{index}: version {version} with token type {code} cannot be read; "
            "write version 1 with an integer type"
        )
    if len(raw) < 34 + 12 * sequences + 8 * borders:
        raise _truncated(index)
    lengths = np.frombuffer(raw, "<i4", sequences, 34).astype(np.int64)
    places = np.frombuffer(raw, "<i8", sequences, 34 + 4 * sequences)
    first = np.frombuffer(raw, "<i8", borders, 34 + 12 * sequences)
    return _megatron_documents(index, data, np.dtype(MEGATRON_DTYPES[code]), lengths, places, first)


def _megatron_documents(
    index: Path,
    data: Path,
    dtype: np.dtype,
    lengths: np.ndarray,
    places: np.ndarray,
    first: np.ndarray,
) -> Documents:
    """Sequences joined into documents; each follows the one before it in the file."""
    starts = places // dtype.itemsize
    tokens = TokenFile(data, dtype)
    # compared without a sum, which a place near 2^63 would wrap around
    if (starts < 0).any() or (lengths < 0).any() or (starts > len(tokens) - lengths).any():
        raise _truncated(data)
    ends = starts + lengths
    in_order = bool((starts[1:] == ends[:-1]).all() and (places % dtype.itemsize == 0).all())
    if (
        not in_order
        or len(first) == 0
        or first[0] != 0
        or first[-1] != len(lengths)
        or (np.diff(first) < 0).any()
    ):
        raise UserError(f"{index}: its sequences do not follow each other; write the index again")
    total = np.concatenate([[0], np.cumsum(lengths)])
    offsets = np.unique(total[first])  # documents without tokens fall away
    begin = int(starts[0]) if len(starts) else 0
    return Documents(tokens, begin + offsets[:-1], np.diff(offsets), np.arange(len(offsets) - 1))


def scan(tokens: TokenFile) -> Any:
    """(place, ids) of a token file, piece by piece."""
    for begin in range(0, len(tokens), SCAN):
        yield begin, tokens[begin : begin + SCAN]


def id_range(tokens: TokenFile) -> tuple[int, int]:
    """The least and the greatest id of a file."""
    extremes = [(int(ids.min()), int(ids.max())) for _, ids in scan(tokens)]
    return min(e[0] for e in extremes), max(e[1] for e in extremes)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file{looked_from(path)}; check the path")
    return path


def _truncated(path: Path) -> UserError:
    return UserError(f"{path}: is shorter than the index says; copy or write it again")
