"""Counts of all n-grams of orders 1 to N of a stream of tokens, exact and without hashing.

An n-gram is its context, the n-gram of one order less, and its last token. With the distinct
n-grams of an order numbered in sorted order, the key

    key = number of the context * vocab_size + last token

is one integer for n-grams of any order, and sorting the keys of all places of the stream counts
them. Keys in order are n-grams in order, so the n-grams that continue a context are neighbours.

    counts = count(np.array([0, 5, 7, 5, 1]), order=3, vocab_size=8, bos=0)
    counts.orders[1].key            # [M] uint64, the distinct pairs
    counts.orders[1].count          # [M] how often each occurs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxlm.core.config import UserError

MAX_ORDER = 8
DENSE = 2  # a table has all numbers up to the last key, where that is below so many wanted ones


@dataclass(frozen=True)
class Grams:
    """The distinct n-grams of one order, M of them, sorted by key."""

    key: np.ndarray  # [M] uint64
    count: np.ndarray  # [M] int64: occurrences
    suffix: np.ndarray  # [M]: the number of the n-gram without its first token, in the order below
    context: np.ndarray  # [M]: the number of the n-gram without its last token
    at_start: np.ndarray  # [M] bool: it begins with bos

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True)
class Counts:
    """The n-grams of orders 1 to N. All tokens of the vocabulary are n-grams of order 1."""

    orders: list[Grams]
    predicted: np.ndarray  # [V] bool: tokens that can be predicted; not bos
    bos: int

    @property
    def order(self) -> int:
        return len(self.orders)

    def num_contexts(self, n: int) -> int:
        """The number of possible contexts of order n; the empty one is that of order 1."""
        return 1 if n == 1 else len(self.orders[n - 2])

    def adjusted(self, n: int) -> np.ndarray:
        """[M] the counts of Kneser-Ney smoothing for order n: how many distinct tokens come before
        an n-gram. N-grams of the highest order, and those that begin with bos, keep their counts.
        """
        grams = self.orders[n - 1]
        if n == self.order:
            return grams.count
        above = self.orders[n]
        kinds = np.bincount(above.suffix, minlength=len(grams))
        return np.where(grams.at_start, grams.count, kinds)


def count(
    tokens: np.ndarray, *, order: int, vocab_size: int, bos: int, never: Sequence[int] = ()
) -> Counts:
    """The n-grams of a stream [T] of ids below `vocab_size`, in which `bos` begins each sentence.

    No n-gram crosses a bos. bos itself has no count as an n-gram of order 1: it is not predicted,
    nor are the ids `never`, such as padding, which the stream lacks.
    Takes up to 35 bytes for each token and each order. Raises `UserError` for an order out of
    [1, 8], and for a stream that does not begin with bos.
    """
    if not 1 <= order <= MAX_ORDER:
        raise UserError(f"order: {order} is not from 1 to {MAX_ORDER}")
    tokens = np.asarray(tokens)
    if not len(tokens) or tokens[0] != bos:
        raise UserError(f"tokens: an n-gram model needs bos ({bos}) before each sentence")
    predicted = np.ones(vocab_size, bool)
    predicted[[bos, *never]] = False
    first = np.bincount(tokens, minlength=vocab_size)
    first[bos] = 0
    every = np.arange(vocab_size)
    zeros = np.zeros(vocab_size, np.int64)
    ones = Grams(every.astype(np.uint64), first, zeros, zeros, every == bos)
    by = _by_windows if order * window_bits(vocab_size) <= 64 else _by_numbers
    return Counts(by(tokens, ones, order, vocab_size, bos), predicted, bos)


def window_bits(vocab_size: int) -> int:
    """Bits of a token in a window: id + 1, and 0 after the end of the sentence."""
    return int(vocab_size).bit_length()


def windows(tokens: np.ndarray, order: int, vocab_size: int, bos: int) -> np.ndarray:
    """[T] uint64: the `order` tokens from each place on as one number, the first one highest, and 0
    for those after the end of the sentence. Windows in order are n-grams in order.
    """
    bits = np.uint64(window_bits(vocab_size))
    code = tokens.astype(np.uint64) + np.uint64(1)
    inside = tokens[1:] != bos
    window = code.copy()
    for n in range(1, order):
        rest = np.where(inside, window[1:], 0)
        window = code << (np.uint64(n) * bits)
        window[:-1] |= rest
    return window


def _by_windows(
    tokens: np.ndarray, ones: Grams, order: int, vocab_size: int, bos: int
) -> list[Grams]:
    """The n-grams from the sorted windows: one sort serves all orders."""
    window = windows(tokens, order, vocab_size, bos)
    window.sort()
    starts = np.flatnonzero(_begins(window))
    window, counts = window[starts], np.diff(starts, append=len(window))
    bits = window_bits(vocab_size)
    orders = [ones]
    number = (window >> np.uint64(bits * (order - 1))).astype(np.int64) - 1
    for n in range(2, order + 1):
        prefix = window >> np.uint64(bits * (order - n))
        rows = np.flatnonzero(prefix & np.uint64((1 << bits) - 1))
        begins = _begins(prefix[rows])
        chosen = rows[begins]
        context = number[chosen]
        token = (prefix[chosen] & np.uint64((1 << bits) - 1)).astype(np.int64) - 1
        key = _keys(context, token, vocab_size)
        count = np.add.reduceat(counts[rows], np.flatnonzero(begins)) if len(rows) else counts[:0]
        below = orders[-1]
        suffix = token
        if n > 2:
            suffix = find(below.key, _keys(below.suffix[context], token, vocab_size))
        orders.append(Grams(key, count, suffix, context, below.at_start[context]))
        number[rows] = np.cumsum(begins) - 1
    return orders


def _by_numbers(
    tokens: np.ndarray, ones: Grams, order: int, vocab_size: int, bos: int
) -> list[Grams]:
    """The n-grams one order after the other, where windows do not fit into 64 bits."""
    inside = tokens != bos
    ends = np.flatnonzero(inside)  # the places where an n-gram of the order ends
    orders = [ones]
    number = tokens.astype(np.int64)  # of the n-gram that ends at each place
    for _ in range(1, order):
        key = _keys(number[ends - 1], tokens[ends], vocab_size)
        distinct, inverse, counts, example = _ranked(key)
        context = (distinct // np.uint64(vocab_size)).astype(np.int64)
        at_start = orders[-1].at_start[context]
        orders.append(Grams(distinct, counts, number[ends[example]], context, at_start))
        number[ends] = inverse
        ends = ends[ends + 1 < len(tokens)] + 1
        ends = ends[inside[ends]]
    return orders


def stream(documents: Sequence[np.ndarray], bos: int) -> np.ndarray:
    """Documents as one stream: bos is put before those that do not begin with it."""
    parts = []
    for each in documents:
        if not len(each) or each[0] != bos:
            parts.append(np.array([bos]))
        parts.append(np.asarray(each))
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[T] int64: the place of each wanted key in the sorted keys; -1: it is not there."""
    if not len(keys):
        return np.full(len(wanted), -1)
    last = int(keys[-1])
    if last < DENSE * len(wanted):
        place = np.full(last + 2, -1, np.int64)  # of each number up to the last key
        place[keys.astype(np.int64)] = np.arange(len(keys))
        return place[np.minimum(wanted, np.uint64(last + 1)).astype(np.int64)]
    order, asked = sorted_places(wanted)
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)  # quick: neighbours are close
    found = np.empty(len(wanted), np.int64)
    found[order] = np.where(keys[at] == asked, at, -1)
    return found


def _ranked(key: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(distinct keys, the number of each key, their counts, a place where each occurs)"""
    order, sorted_keys = sorted_places(key)
    new = _begins(sorted_keys)
    starts = np.flatnonzero(new)
    inverse = np.empty(len(key), np.int64)
    inverse[order] = np.cumsum(new) - 1
    return sorted_keys[starts], inverse, np.diff(starts, append=len(key)), order[starts]


def _begins(ordered: np.ndarray) -> np.ndarray:
    """[M] bool: the value differs from the one before it."""
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return new


def _keys(context: np.ndarray, token: np.ndarray, vocab_size: int) -> np.ndarray:
    return context.astype(np.uint64) * np.uint64(vocab_size) + token.astype(np.uint64)


def sorted_places(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the places in sorted order, the sorted keys).

    Key and place are sorted as one integer where both fit: numpy sorts values several times faster
    than places.
    """
    bits = max(1, len(key).bit_length())
    if len(key) and int(key.max()) >> (64 - bits):
        order = np.argsort(key, kind="stable")
        return order, key[order]
    packed = (key << np.uint64(bits)) | np.arange(len(key), dtype=np.uint64)
    packed.sort()
    return (packed & np.uint64((1 << bits) - 1)).astype(np.int64), packed >> np.uint64(bits)
