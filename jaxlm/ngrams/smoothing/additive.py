"""Additive (Laplace, Lidstone) smoothing of the highest order alone.

    p(w | c) = (count(c w) + delta) / (count(c) + delta V)

with V tokens that can be predicted. A context that the text lacks has a uniform distribution; one
that reaches to the beginning of its sentence is as long as it can be. It is the simplest smoothing,
and a poor one for orders over 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxlm.core.config import field
from jaxlm.ngrams.counting import Counts
from jaxlm.ngrams.smoothing.base import Shares, Smoothing, by_context


@dataclass(frozen=True, kw_only=True)
class Additive(Smoothing):
    """The same number added to each count."""

    delta: float = field(1.0, "what is added to each count", gt=0)

    def shares(self, counts: Counts) -> Iterator[Shares]:
        added = self.delta * counts.predicted.sum()
        for n, grams in enumerate(counts.orders, start=1):
            total = by_context(counts, n, grams.count)
            whole = np.full(len(total), n == counts.order)
            if n > 1:
                whole |= counts.orders[n - 2].at_start
            seen = np.where(whole[grams.context], grams.count / (total + added)[grams.context], 0)
            yield seen, np.where(whole, added / (total + added), 1)
