"""Jelinek-Mercer smoothing: the relative frequencies of all orders, with one weight for each order.

    p(w | c) = sum over n = 1..N of weight_n count_n(c w) / count_n(c), plus weight_0 / V

The weights are those of deleted interpolation (Brants 2000): each n-gram of the highest order is
left out once, and its count goes to the order whose relative frequency then predicts it best. In a
context that only lower orders know, their weights keep their ratios.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.ngrams.counting import Counts
from jaxlm.ngrams.smoothing.base import Shares, Smoothing, by_context, per_context


@dataclass(frozen=True, kw_only=True)
class JelinekMercer(Smoothing):
    """Relative frequencies of all orders, mixed."""

    weights: tuple[float, ...] = field(
        (), "weights of the orders 0 (uniform) to N; empty: by deleted interpolation"
    )

    def validate(self) -> None:
        super().validate()
        if self.weights and (self.weights[0] <= 0 or min(self.weights) < 0):
            raise UserError("weights: the first must be over 0, and the others not below it")

    def shares(self, counts: Counts) -> Iterator[Shares]:
        weights = np.array(self.weights or deleted_interpolation(counts))
        if len(weights) != counts.order + 1:
            raise UserError(
                f"weights: {len(weights)} of them for orders 0 to {counts.order}; give "
                f"{counts.order + 1}, or none"
            )
        for n, grams in enumerate(counts.orders, start=1):
            total = by_context(counts, n, grams.count)
            share = weights[n] / weights[: n + 1].sum()
            seen = share * per_context(grams.count, grams, total)
            yield seen, np.where(total > 0, 1 - share, 1.0)


def deleted_interpolation(counts: Counts) -> np.ndarray:
    """[N + 1] the weights of orders 0 to N, whose sum is 1. None is 0."""
    top = counts.orders[-1]
    number = np.arange(len(top))  # of the n-gram's end in each order, from the highest on
    likely = [np.full(len(top), 1 / counts.predicted.sum())]
    for n in range(counts.order, 0, -1):
        grams = counts.orders[n - 1]
        others = by_context(counts, n, grams.count)[grams.context[number]] - 1
        own = grams.count[number] - 1
        likely.insert(1, np.where(others > 0, own / np.maximum(others, 1), 0))
        number = grams.suffix[number]
    best = np.argmax(likely, axis=0)
    weights = 1 + np.bincount(best, top.count, minlength=counts.order + 1)
    return weights / weights.sum()
