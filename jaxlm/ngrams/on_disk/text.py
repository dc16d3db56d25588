"""The text that is counted on disk: one stream of ids, which is read in pieces.

text = StoredText(path, np.uint16, starts, lengths, bos=1, fingerprint="...")
text.read(0, 1000)      # ids; bos begins each document
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np


class Text(Protocol):
    """A stream of ids in which bos begins each sentence."""

    fingerprint: str  # of its content

    def __len__(self) -> int: ...

    def read(self, begin: int, end: int) -> np.ndarray:
        """The ids of the places from `begin` to `end`, which may be after the last one."""
        ...


class ArrayText:
    """A stream in memory, or a mapped one."""

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens
        self.fingerprint = hashlib.sha256(np.ascontiguousarray(tokens).data).hexdigest()

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, begin: int, end: int) -> np.ndarray:
        return np.asarray(self.tokens[begin:end])


class StoredText:
    """Documents of a file of ids, in rising order. Files are read, not mapped: pages of a mapped
    file count as memory of the process.
    """

    def __init__(
        self,
        path: str | Path,
        dtype: np.dtype | type,
        starts: np.ndarray,
        lengths: np.ndarray,
        *,
        bos: int,
        fingerprint: str,
        skip: int = 0,
    ) -> None:
        """starts, lengths [n]: the documents, in ids; skip: bytes before the first id."""
        self.path, self.dtype, self.skip = path, np.dtype(dtype), skip
        self.starts, self.lengths, self.bos, self.fingerprint = starts, lengths, bos, fingerprint
        mapped = np.memmap(path, self.dtype, "r", offset=skip)
        self.marked = mapped[starts] == bos  # has its own bos
        del mapped
        ends = np.cumsum(lengths + ~self.marked)
        self.offsets = np.concatenate([np.zeros(1, np.int64), ends])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def read(self, begin: int, end: int) -> np.ndarray:
        end = min(end, len(self))
        if begin >= end:
            return np.zeros(0, self.dtype)
        first = int(np.searchsorted(self.offsets, begin, "right")) - 1
        last = int(np.searchsorted(self.offsets, end, "left"))
        return np.concatenate([self._part(i, begin, end) for i in range(first, last)])

    def _part(self, i: int, begin: int, end: int) -> np.ndarray:
        """The ids of document i that are between two places; a document may be the whole file."""
        at = int(self.offsets[i])
        begin, end = max(begin - at, 0), min(end, int(self.offsets[i + 1])) - at
        if self.marked[i]:
            return self._ids(int(self.starts[i]) + begin, end - begin)
        ids = self._ids(int(self.starts[i]) + max(begin - 1, 0), end - max(begin, 1))
        return ids if begin else np.append(self.bos, ids)

    def _ids(self, start: int, length: int) -> np.ndarray:
        place = self.skip + start * self.dtype.itemsize
        return np.fromfile(self.path, self.dtype, length, offset=place)
