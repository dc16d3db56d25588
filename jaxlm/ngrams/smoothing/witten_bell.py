"""Witten-Bell smoothing (Witten and Bell 1991), interpolated: a context with many different
continuations expects more new ones.

    seen(c w) = count(c w) / (count(c) + N(c))      N(c): different tokens after c
    rest(c)   = N(c) / (count(c) + N(c))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jaxlm.ngrams.counting import Counts
from jaxlm.ngrams.smoothing.base import Shares, Smoothing, by_context, divided, per_context


@dataclass(frozen=True, kw_only=True)
class WittenBell(Smoothing):
    """By the number of different tokens after a context."""

    def shares(self, counts: Counts) -> Iterator[Shares]:
        for n, grams in enumerate(counts.orders, start=1):
            kinds = by_context(counts, n, grams.count > 0)
            both = by_context(counts, n, grams.count) + kinds
            yield per_context(grams.count, grams, both), divided(kinds, both)
