"""The order in which rows are drawn: in order, or shuffled again in every epoch.

Both wrap a finite set of rows and answer for every i >= 0 without state, so a run may start at any
step:

    rows = Shuffled(windows, seed=0)
    rows[10**9]                       # as quick as rows[0]; the same on every machine

The shuffle is a pseudo-random permutation computed index by index: a Feistel cipher over the fewest
bits that number the rows, walked in a cycle until it falls inside their range (Black and Rogaway,
"Ciphers with arbitrary finite domains", 2002). It needs no table. Its key is a hash of (seed,
epoch), so that epoch 1 of seed 0 is not epoch 0 of seed 1. It is written out here rather than taken
from a library, because a run that is resumed after an upgrade must still find the same order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from jaxlm.data.rows.batched import batch_of

Row = dict[str, Any]

BLOCK = 512  # places of an epoch whose rows are found together
_FEW = 24  # places: for so many, arrays are slower than plain integers


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

    def batch(self, indices: np.ndarray) -> Row:
        """The rows `indices` [n], gathered together."""
        return batch_of(self.rows, indices % len(self.rows))


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

    def batch(self, indices: np.ndarray) -> Row:
        """The rows `indices` [n], gathered together."""
        return batch_of(self.rows, shuffled_indices(indices, len(self.rows), self.seed))


def shuffled_index(index: int, length: int, seed: int) -> int:
    """The row, of `length`, at place `index` >= 0 of endless, reshuffled epochs."""
    assert index >= 0 and length > 0
    epoch, place = divmod(index, length)
    return _walked(place, length, *_cipher(length, seed, epoch))


def _cipher(length: int, seed: int, epoch: int) -> tuple[int, int, int, tuple[int, ...]]:
    """(low bits, their mask, that of the high ones, keys) of one epoch's permutation."""
    bits = max(2, (length - 1).bit_length())
    low = bits // 2
    keys = _round_keys(seed, epoch, max(3, 12 - bits))  # few rows need more rounds to be even
    return low, (1 << low) - 1, (1 << (bits - low)) - 1, keys


def _walked(
    place: int, length: int, low: int, low_mask: int, high_mask: int, keys: tuple[int, ...]
) -> int:
    """The first place below `length` on the cipher's walk from `place`."""
    while True:
        high, rest = place >> low, place & low_mask
        for key in keys:  # each line is its own inverse, so every round is one to one
            high ^= _mix(rest ^ key) & high_mask
            rest ^= _mix(high ^ key ^ _GOLDEN) & low_mask
        place = high << low | rest
        if place < length:
            return place


def shuffled_indices(indices: np.ndarray, length: int, seed: int) -> np.ndarray:
    """`shuffled_index` of every one of `indices` [n], in the same numbers: [n] int64.

    Neighbours are found in blocks of BLOCK places that are kept, a few microseconds a batch.
    """
    epochs, places = np.divmod(indices, length)
    blocks = places // BLOCK
    found = np.empty(len(indices), np.int64)
    for epoch, block in sorted({*zip(epochs.tolist(), blocks.tolist(), strict=True)}):
        chosen = (epochs == epoch) & (blocks == block)
        found[chosen] = _block(length, seed, epoch, block)[places[chosen] - block * BLOCK]
    return found


@lru_cache(maxsize=64)
def _block(length: int, seed: int, epoch: int, block: int) -> np.ndarray:
    """The rows at the places block * BLOCK and following of one epoch."""
    places = np.arange(block * BLOCK, min(length, (block + 1) * BLOCK))
    return _permuted(places, length, seed, epoch)


def _permuted(places: np.ndarray, length: int, seed: int, epoch: int) -> np.ndarray:
    """The rows at `places` [n] of one epoch, as `shuffled_index` walks to them."""
    cipher = _cipher(length, seed, epoch)
    low, low_mask, high_mask = map(np.uint64, cipher[:3])
    keys = np.array(cipher[3], np.uint64)
    found = places.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside) > _FEW:
        high, rest = found[outside] >> low, found[outside] & low_mask
        for key, other in zip(keys, keys ^ np.uint64(_GOLDEN), strict=True):
            high ^= _mixed(rest ^ key) & high_mask
            rest ^= _mixed(high ^ other) & low_mask
        found[outside] = high << low | rest
        outside = outside[found[outside] >= length]
    found[outside] = [_walked(place, length, *cipher) for place in found[outside].tolist()]
    return found.astype(np.int64)


_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def _mix(x: int) -> int:
    """Steele, Lea and Flood's 64-bit finaliser (SplitMix, 2014)."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x >> 31 ^ x


def _mixed(x: np.ndarray) -> np.ndarray:
    """`_mix` of every one: the product of unsigned numbers keeps its low 64 bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x >> np.uint64(31) ^ x


@lru_cache(maxsize=256)
def _round_keys(seed: int, epoch: int, rounds: int) -> tuple[int, ...]:
    """Keys of 64 bits for one epoch's permutation."""
    digest = hashlib.shake_128(f"{seed}/{epoch}".encode()).digest(8 * rounds)
    return tuple(int.from_bytes(digest[i : i + 8], "little") for i in range(0, len(digest), 8))


def derive_seed(seed: int, name: str) -> int:
    """A seed of its own for the part `name` of a dataset."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def place_rng(seed: int, index: int) -> np.random.RandomState:
    """The random numbers of the row at place `index` of the endless order. A RandomState draws the
    same in every version of numpy; one over Philox takes a tenth of the time to make.
    """
    digest = hashlib.blake2b(f"{seed}/augment/{index}".encode(), digest_size=16).digest()
    return np.random.RandomState(np.random.Philox(key=int.from_bytes(digest, "little")))


def padding_row(length: int, pad_id: int, identity: int) -> Row:
    """A row of nothing but padding."""
    return {
        "tokens": np.full(length, pad_id, np.int32),
        "segment_ids": np.zeros(length, np.int32),
        "positions": np.zeros(length, np.int32),
        "id": np.int64(identity),
    }
