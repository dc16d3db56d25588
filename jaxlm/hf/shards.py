"""Tensors written as safetensors, one at a time, in files of bounded size with their index.

    write_shards(folder, {"wte.weight": Header("float16", (4, 2))}, arrays, max_bytes=5 * 10**9)

The format (github.com/huggingface/safetensors): eight bytes of the header's length, little-endian;
the header, a JSON object of {name: dtype, shape, where it begins and ends}, filled up with spaces
to a multiple of eight; the tensors' bytes, little-endian, rows first. The library itself writes
whole files from memory alone.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import ml_dtypes  # noqa: F401  its import tells numpy what bfloat16 is; jax brings it
import numpy as np

from jaxlm.hf.stored import DTYPES, INDEX, SINGLE

CODES = {name: code for code, name in DTYPES.items()}


class Header(NamedTuple):
    """The facts about a tensor that are known before it is written."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write_shards(
    folder: Path,
    headers: Mapping[str, Header],
    arrays: Iterable[tuple[str, np.ndarray]],
    *,
    max_bytes: int,
) -> list[str]:
    """Writes the arrays, which come in the headers' order; returns the names of the files."""
    shards = split(headers, max_bytes)
    count = len(shards)
    names = [SINGLE] if count == 1 else [
        f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)
    ]  # fmt: skip
    coming = iter(arrays)
    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard, coming)
    assert next(coming, None) is None, "more tensors than headers"
    if count > 1:
        total = sum(header.nbytes for header in headers.values())
        files = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return names


def write_file(
    path: Path, headers: Mapping[str, Header], coming: Iterator[tuple[str, np.ndarray]]
) -> None:
    """Writes one file with the next arrays, which come in the headers' order."""
    with _new_file(path, headers) as file:
        for key, header in headers.items():
            got, array = next(coming)
            assert (got, array.dtype.name, array.shape) == (key, *header), (got, key)
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def split(headers: Mapping[str, Header], max_bytes: int) -> list[dict[str, Header]]:
    """The tensors by file: as many as go into `max_bytes`; a larger tensor has a file to itself."""
    shards: list[dict[str, Header]] = [{}]
    size = 0
    for name, header in headers.items():
        if shards[-1] and size + header.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = header
        size += header.nbytes
    return shards


@contextlib.contextmanager
def _new_file(path: Path, shard: Mapping[str, Header]) -> Iterator[IO[bytes]]:
    body: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, header in shard.items():
        stop = start + header.nbytes
        place = [start, stop]
        body[name] = {
            "dtype": CODES[header.dtype], "shape": header.shape, "data_offsets": place
        }  # fmt: skip
        start = stop
    text = json.dumps(body, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        yield file
