"""Fixed windows over documents laid end to end, with their boundaries kept.

Window i holds tokens [i T, i T + T] of the concatenation: T + 1 tokens, the last of which is the
next window's first, so that the T inputs and T targets of all windows predict every token once. In
a window documents are numbered from 1 (`segment_ids`), and `positions` is the place inside the
document, which goes on counting in the next window. The last window is padded (segment 0).

    windows = Windows(documents, seq_len=256, pad_id=0)
    windows[7]["tokens"]              # [257] int32

`Lanes` lays the windows out for a recurrent state that is carried from batch to batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxlm.data.order import Row, padding_row
from jaxlm.data.store import Documents


@dataclass(frozen=True)
class Windows:
    """All windows of seq_len + 1 tokens over some documents (at least two tokens)."""

    documents: Documents
    seq_len: int
    pad_id: int

    def __len__(self) -> int:
        return -(-(self.documents.num_tokens - 1) // self.seq_len)

    def __getitem__(self, index: int) -> Row:
        return self.row(index)

    def row(self, index: int, *, restart: int = 0) -> Row:
        """Window `index`; positions count from token `restart` of the concatenation at the
        earliest.
        """
        assert 0 <= index < len(self), index
        offsets, length = self.documents.offsets, self.seq_len + 1
        start = index * self.seq_len
        stop = min(start + length, self._num_tokens)
        first = int(offsets.searchsorted(start, "right")) - 1
        last = int(offsets.searchsorted(stop, "left"))  # documents first..last-1 are seen
        row = padding_row(length, self.pad_id, index)
        row["tokens"][: stop - start] = self._tokens(start, stop, first, last)
        borders = offsets[first : last + 1].clip(start, stop) - start
        sizes = np.diff(borders)
        place = np.arange(stop - start, dtype=np.int32)
        if last - first == 1:
            row["segment_ids"][: stop - start] = 1
            row["positions"][: stop - start] = place
        else:
            row["segment_ids"][: stop - start] = np.arange(1, len(sizes) + 1).repeat(sizes)
            row["positions"][: stop - start] = place - borders[:-1].repeat(sizes)
        row["positions"][: sizes[0]] += start - max(int(offsets[first]), restart)
        return row

    def _tokens(self, start: int, stop: int, first: int, last: int) -> np.ndarray:
        """Tokens [start, stop) of the concatenation, which documents first..last-1 cover."""
        documents = self.documents
        begin = int(documents.starts[first]) + start - int(documents.offsets[first])
        if last - first == 1 or self._gapless(first, last):
            return documents.tokens[begin : begin + stop - start]
        shift = documents.starts[first:last] - documents.offsets[first:last]
        sizes = np.diff(documents.offsets[first : last + 1].clip(start, stop))
        return documents.tokens[np.arange(start, stop) + shift.repeat(sizes)]

    def _gapless(self, first: int, last: int) -> bool:
        """Whether documents first..last-1 stand next to one another in the file."""
        starts, offsets = self.documents.starts, self.documents.offsets
        return bool(starts[last - 1] - starts[first] == offsets[last - 1] - offsets[first])

    @cached_property
    def _num_tokens(self) -> int:
        return self.documents.num_tokens


@dataclass(frozen=True)
class Lanes:
    """Windows in the order of a stream: row b of every batch reads on where row b of the last one
    ended.

    With n windows and a batch of B, lane b is windows b L .. b L + L - 1, L = ceil(n / B), and
    batch t of an epoch holds window b L + t in row b. Past the end there is padding. At the
    beginning of a lane positions count from 0, even inside a document: a recurrent state, which is
    reset where positions are 0, starts anew there in each epoch.
    """

    windows: Windows
    batch_size: int

    @property
    def lane(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    @property
    def rows_per_epoch(self) -> int:
        return self.lane * self.batch_size

    def __getitem__(self, index: int) -> Row:
        step, b = divmod(index, self.batch_size)
        begin = b * self.lane
        window = begin + step % self.lane
        if window >= len(self.windows):
            return padding_row(self.windows.seq_len + 1, self.windows.pad_id, window)
        return self.windows.row(window, restart=begin * self.windows.seq_len)
