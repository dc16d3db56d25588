"""Windows of running text as one stream of ids again, in which bos begins each document.

    stream = WindowStream(split.rows, read=np.array([0, 1, 7]), bos=1)
    len(stream)
    stream.read(0, 1000)                # ids

It is a `jaxlm.ngrams.on_disk.Text`: it is read in pieces, however long it is. A bos comes after
each gap between the windows as well.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from jaxlm.data.rows.batched import batch_of

TOGETHER = 1 << 18  # tokens of the windows that are read at a time


class WindowStream:
    """The tokens of some windows in order."""

    def __init__(self, windows: Any, read: np.ndarray, bos: int) -> None:
        """windows: rows {"tokens", "segment_ids", "positions"} [T + 1] whose last token is the
        first one of the next window (`jaxlm.data.rows.windows`). read: the windows, rising.
        """
        self.windows, self.chosen, self.bos = windows, np.asarray(read), bos
        self.follows = np.append(np.diff(self.chosen) == 1, False)  # the next window is read too
        digest = hashlib.sha256(f"{bos} ".encode())
        lengths = [np.zeros(1, np.int64)]
        for first in range(0, len(self.chosen), self._together):
            ids, window = self._ids(first, first + self._together)
            digest.update(ids.astype(np.uint32).data)
            size = min(self._together, len(self.chosen) - first)
            lengths.append(np.bincount(window, minlength=size))
        self.fingerprint = digest.hexdigest()
        self.offsets = np.cumsum(np.concatenate(lengths))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def read(self, begin: int, end: int) -> np.ndarray:
        """The ids of the places from `begin` to `end`, which may be after the last one."""
        end = min(end, len(self))
        if begin >= end:
            return np.zeros(0, np.int32)
        first = int(np.searchsorted(self.offsets, begin, "right")) - 1
        last = int(np.searchsorted(self.offsets, end, "left"))
        pieces = [
            self._ids(at, min(at + self._together, last))[0]
            for at in range(first, last, self._together)
        ]
        return np.concatenate(pieces)[begin - int(self.offsets[first]) :][: end - begin]

    @property
    def _together(self) -> int:
        """Windows that are read at a time."""
        return max(1, TOGETHER // self.windows.seq_len)

    def _ids(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, the window of each from 0 on) of the chosen windows first .. last - 1."""
        rows = batch_of(self.windows, self.chosen[first:last])
        segments, own = rows["segment_ids"], rows["segment_ids"] > 0
        follows = self.follows[first:last]
        # the last token is the next window's; where that is not read, it is the last target
        own[:, -1] &= ~follows & (segments[:, -1] == segments[:, -2])
        begins = rows["positions"] == 0
        after_gap = np.append(first == 0 or not self.follows[first - 1], ~follows)[:-1]
        begins[:, 0] |= after_gap
        window = np.broadcast_to(np.arange(len(own))[:, None], own.shape)[own]
        ids, marked = rows["tokens"][own], (begins & (rows["tokens"] != self.bos))[own]
        places = np.flatnonzero(marked)
        return np.insert(ids, places, self.bos), np.insert(window, places, window[places])
