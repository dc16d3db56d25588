"""Whole documents fitted into rows: best fit, longest first.

A document of more than seq_len + 1 tokens is cut into pieces that overlap by one token, so that
every token is still predicted once; a shorter one is never cut. Blocks of 65,536 pieces, in their
order, are packed by best-fit decreasing (Johnson, 1974: the fullest row that still has room), which
leaves at most about a fifth more rows than the best packing and, on text, a few per cent of
padding. The plan is a pure function of the documents' lengths.

    packed = PackedRows.plan(documents, seq_len=512, pad_id=0)
    packed[3]["segment_ids"]          # [513]: 1 1 1 2 2 2 2 3 3 0 0
    packed.padding                    # share of the slots that hold nothing

Positions count from 0 at the start of every segment, of a cut document's later pieces too: what
came before is not in the row, and a recurrent state must start again there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jaxlm.data.rows.batched import numbered
from jaxlm.data.rows.order import Row, padding_row
from jaxlm.data.store.tokens import Documents

BLOCK = 65_536  # pieces that are fitted together


@dataclass(frozen=True)
class PackedRows:
    """Rows of seq_len + 1 tokens; row r holds pieces first[r] .. first[r + 1] - 1."""

    documents: Documents
    seq_len: int
    pad_id: int
    starts: np.ndarray = field(
        repr=False
    )  # [pieces] int64, in the token file, in the order of the rows
    lengths: np.ndarray = field(repr=False)  # [pieces] int64
    first: np.ndarray = field(repr=False)  # [rows + 1] int64

    @classmethod
    def plan(cls, documents: Documents, seq_len: int, pad_id: int) -> PackedRows:
        """Fits the documents into rows; about a million pieces a second."""
        starts, lengths = cut(documents.starts, documents.lengths, seq_len)
        order, first = best_fit_blocks(lengths, seq_len + 1)
        return cls(documents, seq_len, pad_id, starts[order], lengths[order], first)

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, index: int) -> Row:
        assert 0 <= index < len(self), index
        row = padding_row(self.seq_len + 1, self.pad_id, index)
        place = 0
        begin, end = self.first[index], self.first[index + 1]
        pieces = zip(self.starts[begin:end].tolist(), self.lengths[begin:end].tolist(), strict=True)
        for segment, (start, length) in enumerate(pieces, start=1):
            row["tokens"][place : place + length] = self.documents.tokens[start : start + length]
            row["segment_ids"][place : place + length] = segment
            row["positions"][place : place + length] = np.arange(length)
            place += length
        return row

    def batch(self, indices: np.ndarray) -> Row:
        """The rows `indices` [n], gathered together: each array is [n, T + 1]."""
        assert (indices >= 0).all() and (indices < len(self)).all(), indices
        shape = (len(indices), self.seq_len + 1)
        begin = self.first[indices]
        count = self.first[indices + 1] - begin
        row, nth = numbered(count + 1)  # the last piece of each row is its padding
        full = nth < count[row]
        piece = np.where(full, begin[row] + nth, 0)
        sizes = np.where(full, self.lengths[piece], 0)
        sizes[~full] = shape[1] - np.bincount(row, sizes, len(indices)).astype(np.int64)
        place = np.cumsum(sizes) - sizes - row * shape[1]  # of the piece, in its row
        segment_ids = np.where(full, nth + 1, 0).astype(np.int32).repeat(sizes).reshape(shape)
        places = np.arange(shape[1], dtype=np.int32)
        positions = places - place.astype(np.int32).repeat(sizes).reshape(shape)
        source = np.where(full, self.starts[piece] - place, 0).repeat(sizes).reshape(shape)
        padding = segment_ids == 0
        source += places
        source[padding] = 0
        tokens = self.documents.tokens[source].astype(np.int32)
        tokens[padding] = self.pad_id
        positions[padding] = 0
        return {
            "tokens": tokens,
            "segment_ids": segment_ids,
            "positions": positions,
            "id": indices.astype(np.int64),
        }

    @property
    def padding(self) -> float:
        """Share of the rows' slots that are padding, in [0, 1)."""
        return 1 - float(self.lengths.sum()) / (len(self) * (self.seq_len + 1))


def cut(starts: np.ndarray, lengths: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of at most seq_len + 1 tokens, in order: (starts, lengths), [pieces] int64 each.

    Consecutive pieces of a document share one token, the last of one and the first of the next.
    """
    count = np.maximum(1, -(-(lengths - 1) // seq_len))
    document = np.arange(len(lengths)).repeat(count)
    nth = np.arange(count.sum()) - (np.cumsum(count) - count).repeat(count)
    rest = lengths[document] - nth * seq_len
    return starts[document] + nth * seq_len, np.minimum(rest, seq_len + 1)


def best_fit_blocks(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, first): row r holds the pieces order[first[r] : first[r + 1]], [pieces] and
    [rows + 1] int64. Blocks of BLOCK pieces are fitted together.
    """
    order: list[int] = []
    sizes: list[int] = []
    for begin in range(0, len(lengths), BLOCK):
        rows = best_fit_decreasing(lengths[begin : begin + BLOCK], capacity)
        order += [begin + piece for row in rows for piece in row]
        sizes += [len(row) for row in rows]
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
    return np.array(order, np.int64), first


def best_fit_decreasing(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Rows as lists of indices into `lengths` (each in [1, capacity]); no row exceeds `capacity`.

    The rows are kept by the room they have left, and the rooms that occur as the bits of one
    integer, in which the smallest sufficient room is found by a shift and the lowest set bit.
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity)]  # room left -> rows
    rooms = 0
    sizes = lengths.tolist()
    for piece in np.argsort(-lengths, kind="stable").tolist():
        size = sizes[piece]
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(piece)
        if room > size:
            by_room[room - size].append(row)
            rooms |= 1 << (room - size)
    return rows
