"""Jelinek-Mercer smoothing: the relative frequencies of all orders, with one weight for each order.

    p(w | c) = sum over n = 1..N of weight_n count_n(c w) / count_n(c), plus weight_0 / V

The weights are those of deleted interpolation (Brants 2000): each n-gram of the highest order is
left out once, and its count goes to the order whose relative frequency then predicts it best. In a
context that only lower orders know, their weights keep their ratios.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.ngrams.smoothing.base import Contexts, Rule, Smoothing, Summary


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

    def check(self, order: int) -> None:
        if self.weights and len(self.weights) != order + 1:
            raise UserError(
                f"weights: {len(self.weights)} of them for orders 0 to {order}; give {order + 1}, "
                "or none"
            )

    def rule(self, n: int, summary: Summary) -> Rule:
        self.check(summary.order)
        weights = np.array(self.weights or deleted_interpolation(summary))
        share = weights[n] / weights[: n + 1].sum()

        def shares(contexts: Contexts) -> tuple[np.ndarray, np.ndarray]:
            known = contexts.total > 0
            return share / np.maximum(contexts.total, 1), np.where(known, 1 - share, 1.0)

        return Rule(shares)


def deleted_interpolation(summary: Summary) -> np.ndarray:
    """[N + 1] the weights of orders 0 to N, whose sum is 1. None is 0."""
    weights = 1 + summary.votes()
    return weights / weights.sum()
