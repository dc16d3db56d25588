"""Additive (Laplace, Lidstone) smoothing of the highest order alone.

    p(w | c) = (count(c w) + delta) / (count(c) + delta V)

with V tokens that can be predicted. A context that the text lacks has a uniform distribution; one
that reaches to the beginning of its sentence is as long as it can be. It is the simplest smoothing,
and a poor one for orders over 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxlm.core.config import field
from jaxlm.ngrams.smoothing.base import Contexts, Rule, Smoothing, Summary


@dataclass(frozen=True, kw_only=True)
class Additive(Smoothing):
    """The same number added to each count."""

    delta: float = field(1.0, "what is added to each count", gt=0)

    def rule(self, n: int, summary: Summary) -> Rule:
        added = self.delta * summary.num_predicted

        def shares(contexts: Contexts) -> tuple[np.ndarray, np.ndarray]:
            whole = contexts.at_start | (n == summary.order)
            share = 1 / (contexts.total + added)
            return np.where(whole, share, 0.0), np.where(whole, added * share, 1.0)

        return Rule(shares)
