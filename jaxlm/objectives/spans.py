"""Spans of documents that are left out of them: how many, how long, and where.

What T5's and GLM's objectives share. A row's documents are its segments; the body of one is what
is between its special tokens (bos, eos). Spans are in bodies, so none crosses a document's
border; between two of a document there is a token at least, and no body is left out whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Document(NamedTuple):
    """Tokens [start, stop) of a row; its body is [first, last), empty where all are special."""

    start: int
    stop: int
    first: int
    last: int


def documents_of(tokens: np.ndarray, segments: np.ndarray, is_text: np.ndarray) -> list[Document]:
    """The documents of a row [T] in their order; `is_text` [V] is of ids."""
    borders = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(tokens)]
    found = []
    for start, stop in zip(borders[:-1], borders[1:], strict=True):
        if segments[start] > 0:
            inside = start + np.flatnonzero(is_text[tokens[start:stop]])
            body = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (start, start)
            found.append(Document(start, stop, *body))
    return found


def place_spans(
    rng: np.random.RandomState, lengths: Sequence[int], documents: Sequence[Document]
) -> list[list[tuple[int, int]]]:
    """Spans [start, stop) of these lengths at random places, by document, in order.

    A document gets spans in proportion to its room. One that is too long for all of them is cut,
    and what is cut off is added to the next.
    """
    room = np.array([d.last - d.first for d in documents], np.int64)
    chosen: list[list[int]] = [[] for _ in documents]
    left = 0
    for wanted in sorted(lengths, reverse=True) if documents else ():
        length = min(wanted + left, int(room.max()) - 1)
        left += wanted - length
        if length < 1:
            break
        shares = np.where(room > length, room, 0).cumsum()
        at = int(shares.searchsorted(int(rng.random_sample() * shares[-1]), "right"))
        chosen[at].append(length)
        room[at] -= length + 1
    return [_spread(rng, sizes, d) for sizes, d in zip(chosen, documents, strict=True)]


def _spread(
    rng: np.random.RandomState, lengths: list[int], document: Document
) -> list[tuple[int, int]]:
    """Spans in random order and with all gaps equally likely, those between two being 1 or more."""
    count = len(lengths)
    if not count:
        return []
    sizes = np.array(lengths)[rng.permutation(count)]
    free = document.last - document.first - int(sizes.sum()) - (count - 1)
    bars = np.sort(rng.permutation(free + count)[:count])  # bar j has j bars and the gaps before it
    starts = document.first + bars + np.cumsum(sizes) - sizes
    return [(int(a), int(a + n)) for a, n in zip(starts, sizes, strict=True)]


def split_at_random(rng: np.random.RandomState, total: int, parts: int) -> list[int]:
    """`total` as a sum of that many positive numbers, each way as likely."""
    if parts < 1:
        return []
    bars = np.sort(rng.permutation(total - 1)[: parts - 1]) + 1
    return np.diff([0, *bars.tolist(), total]).tolist()


def filled(
    pieces: Sequence[np.ndarray], length: int, filler: int, dtype: Any = np.int32
) -> np.ndarray:
    """The pieces one after the other [length, ...], with `filler` up to the end."""
    row = np.concatenate(pieces).astype(dtype) if pieces else np.zeros(0, dtype)
    assert len(row) <= length, f"{len(row)} of {length}"
    return np.pad(row, [(0, length - len(row)), *[(0, 0)] * (row.ndim - 1)], constant_values=filler)


def round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
