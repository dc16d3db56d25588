"""Witten-Bell smoothing (Witten and Bell 1991), interpolated: a context with many different
continuations expects more new ones.

    seen(c w) = count(c w) / (count(c) + N(c))      N(c): different tokens after c
    rest(c)   = N(c) / (count(c) + N(c))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxlm.ngrams.smoothing.base import Contexts, Rule, Smoothing, Summary


@dataclass(frozen=True, kw_only=True)
class WittenBell(Smoothing):
    """By the number of different tokens after a context."""

    def rule(self, n: int, summary: Summary) -> Rule:
        return Rule(_shares)


def _shares(contexts: Contexts) -> tuple[np.ndarray, np.ndarray]:
    kinds = contexts.kinds.sum(axis=0)
    both = np.maximum(contexts.total + kinds, 1)
    return 1 / both, np.where(kinds > 0, kinds / both, 1.0)
