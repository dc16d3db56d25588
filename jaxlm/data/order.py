"""The order in which rows are drawn: in order, or shuffled anew in every epoch.

Both wrap a finite set of rows and answer for every i >= 0 without state, so a run may start at any step:

    rows = Shuffled(windows, seed=0)
    rows[10**9]                       # as quick as rows[0]; the same on every machine

The shuffle is a pseudo-random permutation computed index by index (grain's `index_shuffle`, a Simon block
cipher walked in a cycle until it falls inside the range): constant memory, no table. Its key is a hash of
(seed, epoch), so that epoch 1 of seed 0 is not epoch 0 of seed 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from grain.experimental import index_shuffle

Row = dict[str, Any]


class FiniteRows(Protocol):
    """A finite set of rows in their natural order; row i's "id" is i."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...


@dataclass(frozen=True)
class InOrder:
    """The rows in their natural order, again and again."""

    rows: FiniteRows

    @property
    def rows_per_epoch(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index % len(self.rows)]


@dataclass(frozen=True)
class Shuffled:
    """Every row once an epoch, in an order that (seed, epoch) alone decides."""

    rows: FiniteRows
    seed: int

    @property
    def rows_per_epoch(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[shuffled_index(index, len(self.rows), self.seed)]


def shuffled_index(index: int, length: int, seed: int) -> int:
    """Which of `length` rows is drawn at place `index` >= 0 of an endless run of reshuffled epochs."""
    assert index >= 0 and 0 < length <= 2**32
    epoch, place = divmod(index, length)
    return index_shuffle(place, max_index=length - 1, seed=_key(seed, epoch), rounds=4)


@lru_cache(maxsize=256)
def _key(seed: int, epoch: int) -> int:
    """32 bits for one epoch's permutation."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


def derive_seed(seed: int, name: str) -> int:
    """A seed of its own for the part `name` of a dataset."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def padding_row(length: int, pad_id: int, identity: int) -> Row:
    """A row of nothing but padding."""
    return {
        "tokens": np.full(length, pad_id, np.int32),
        "segment_ids": np.zeros(length, np.int32),
        "positions": np.zeros(length, np.int32),
        "id": np.int64(identity),
    }
