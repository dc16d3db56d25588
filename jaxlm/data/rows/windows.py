"""Fixed windows over documents laid end to end, with their boundaries kept.

Window i holds tokens [i T, i T + T] of the concatenation: T + 1 tokens, the last of which is the
next window's first, so that the T inputs and T targets of all windows predict every token once. In
a window documents are numbered from 1 (`segment_ids`), and `positions` is the place inside the
document, which continues in the next window. The last window is padded (segment 0).

    windows = Windows(documents, seq_len=256, pad_id=0)
    windows[7]["tokens"]              # [257] int32

`Lanes` lays the windows out for a recurrent state that is carried from batch to batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxlm.data.rows.batched import joined, numbered, stack
from jaxlm.data.rows.order import Row, padding_row
from jaxlm.data.store.tokens import Documents


@dataclass(frozen=True)
class Windows:
    """All windows of seq_len + 1 tokens over some documents (at least two tokens)."""

    documents: Documents
    seq_len: int
    pad_id: int

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Row:
        return self.row(index)

    def row(self, index: int, *, restart: int = 0) -> Row:
        """Window `index`; no position counts from before token `restart` of the concatenation."""
        assert 0 <= index < self._count, index
        offsets = self.documents.offsets
        start = index * self.seq_len
        stop = min(start + self.seq_len + 1, self._num_tokens)
        first = int(offsets.searchsorted(start, "right")) - 1
        last = int(offsets.searchsorted(stop, "left"))  # documents first..last-1 are seen
        before = start - max(
            int(offsets[first]), restart
        )  # tokens of the first one, in earlier rows
        borders = offsets[first : last + 1] - start
        borders[0], borders[-1] = 0, stop - start
        sizes = borders[1:] - borders[:-1]
        if last - first == 1:
            segment_ids = np.ones(stop - start, np.int32)
            positions = self._places[: stop - start] + np.int32(before)
        else:
            segment_ids = self._places[1 : last - first + 1].repeat(sizes)
            positions = self._places[: stop - start] - borders[:-1].astype(np.int32).repeat(sizes)
            positions[: sizes[0]] += np.int32(before)
        tokens = self._tokens(start, stop, first, last, sizes).astype(np.int32)
        return {
            "tokens": self._fill(tokens, self.pad_id),
            "segment_ids": self._fill(segment_ids, 0),
            "positions": self._fill(positions, 0),
            "id": np.int64(index),
        }

    def batch(self, indices: np.ndarray, restart: np.ndarray | int = 0) -> Row:
        """The windows `indices` [n], gathered together: each array is [n, T + 1].

        restart: as that of `row`, of each window.
        """
        assert (indices >= 0).all() and (indices < self._count).all(), indices
        offsets, starts, length = self.documents.offsets, self.documents.starts, self.seq_len + 1
        start = indices * self.seq_len
        if (start + length > self._num_tokens).any():  # the last window has padding
            each = np.broadcast_to(restart, indices.shape).tolist()
            rows = zip(indices.tolist(), each, strict=True)
            return stack([self.row(index, restart=begin) for index, begin in rows])
        first = offsets.searchsorted(start, "right") - 1
        last = offsets.searchsorted(start + length, "left")  # documents first..last-1 are seen
        before = start - np.maximum(offsets[first], restart)
        places = self._places[:length]
        shift = starts[first] - offsets[first]
        apart = (starts[last - 1] - offsets[last - 1] != shift).any()  # not neighbours in the file
        if not apart:
            tokens = self.documents.tokens.stretches(start + shift, length).astype(np.int32)
        if (last - first == 1).all():
            segment_ids = np.ones((len(indices), length), np.int32)
            positions = places + before.astype(np.int32)[:, None]
        else:
            row, nth = numbered(last - first)
            document = first[row] + nth
            begin = np.maximum(offsets[document], start[row])
            sizes = np.minimum(offsets[document + 1], start[row] + length) - begin
            shape = (len(indices), length)
            segment_ids = (nth + 1).astype(np.int32).repeat(sizes).reshape(shape)
            origin = np.where(nth == 0, -before[row], begin - start[row])  # of the positions
            positions = places - origin.astype(np.int32).repeat(sizes).reshape(shape)
            if apart:
                source = (starts[document] - offsets[document] + start[row]).repeat(sizes)
                tokens = self.documents.tokens[source.reshape(shape) + places].astype(np.int32)
        return {
            "tokens": tokens,
            "segment_ids": segment_ids,
            "positions": positions,
            "id": indices.astype(np.int64),
        }

    def _tokens(
        self, start: int, stop: int, first: int, last: int, sizes: np.ndarray
    ) -> np.ndarray:
        """Tokens [start, stop) of the concatenation: `sizes` of documents first..last-1."""
        starts, offsets = self.documents.starts, self.documents.offsets
        begin = int(starts[first]) + start - int(offsets[first])
        if starts[last - 1] - starts[first] == offsets[last - 1] - offsets[first]:
            return self.documents.tokens[begin : begin + stop - start]  # neighbours in the file
        shift = starts[first:last] - offsets[first:last]
        return self.documents.tokens[np.arange(start, stop) + shift.repeat(sizes)]

    def _fill(self, values: np.ndarray, filler: int) -> np.ndarray:
        """`values` with padding up to seq_len + 1."""
        missing = self.seq_len + 1 - len(values)
        if missing == 0:
            return values
        return np.concatenate([values, np.full(missing, filler, values.dtype)])

    @cached_property
    def _num_tokens(self) -> int:
        return self.documents.num_tokens

    @cached_property
    def _count(self) -> int:
        return -(-(self._num_tokens - 1) // self.seq_len)

    @cached_property
    def _places(self) -> np.ndarray:
        return np.arange(self.seq_len + 2, dtype=np.int32)


@dataclass(frozen=True)
class Lanes:
    """Windows in the order of a stream: row b of every batch reads on where row b of the last one
    ended.

    With n windows and a batch of B, lane b is windows b L .. b L + L - 1, L = ceil(n / B), and
    batch t of an epoch holds window b L + t in row b. Past the end there is padding. At the
    beginning of a lane positions count from 0, even inside a document: a recurrent state, which is
    reset where positions are 0, starts again there in each epoch.
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

    def batch(self, indices: np.ndarray) -> Row:
        """The rows `indices` [n], gathered together."""
        step, b = np.divmod(indices, self.batch_size)
        begin = b * self.lane
        window = begin + step % self.lane
        inside = window < len(self.windows)
        found = []
        if inside.any():
            restart = begin[inside] * self.windows.seq_len
            found.append((inside, self.windows.batch(window[inside], restart)))
        if not inside.all():
            rows = [
                padding_row(self.windows.seq_len + 1, self.windows.pad_id, identity)
                for identity in window[~inside].tolist()
            ]
            found.append((~inside, stack(rows)))
        return found[0][1] if len(found) == 1 else joined(found, len(indices))
