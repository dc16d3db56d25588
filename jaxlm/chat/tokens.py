"""A rendering as tokens: ids, and the loss weight of each.

    ids, spans = tokenise(tokenizer, rendering.text, rendering.written)
    weights = token_weights(rendering.weights, spans)

A special token that the template writes has its id; its spelling in a message is text, so nobody
can write the end of a turn into a message. A token that covers characters of different weights,
such as the last letter of an answer and the line break after it, has the greatest of them: it is
trained where any of its characters is, as in transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Span = tuple[int, int]


def tokenise(tokenizer: Any, text: str, written: Sequence[Span]) -> tuple[list[int], list[Span]]:
    """(ids, characters of each); `written`: the characters in which nothing is a special token."""
    names = tuple(tokenizer.special_tokens)
    plain = [
        (start, end) for start, end in written if any(name in text[start:end] for name in names)
    ]
    ids: list[int] = []
    spans: list[Span] = []
    place = 0
    for start, end in [*plain, (len(text), len(text))]:
        for begin, stop, special in ((place, start, True), (start, end, False)):
            if begin < stop:
                own, places = tokenizer.encode_with_offsets(text[begin:stop], special=special)
                ids += own
                spans += [(begin + a, begin + b) for a, b in places] if begin else places
        place = max(place, end)
    return ids, spans


def token_weights(weights: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """[tokens] float32, from the weights of the characters. A token without characters counts
    where those on both of its sides do.
    """
    if not len(weights) or not spans:
        return np.zeros(len(spans), np.float32)
    starts, ends = np.array(spans, np.int64).T
    empty = starts == ends
    first = np.minimum(starts, len(weights) - 1)
    last = np.clip(ends - 1, 0, len(weights) - 1)
    out = np.where(
        empty,
        np.where(starts > 0, np.minimum(weights[last], weights[first]), 0),
        np.maximum(weights[first], weights[last]),
    ).astype(np.float32)
    changes = np.concatenate([[0], np.cumsum(weights[1:] != weights[:-1])])
    for i in np.flatnonzero(~empty & (changes[last] - changes[first] > 1)):  # one inside of a token
        out[i] = weights[starts[i] : ends[i]].max()
    return out
