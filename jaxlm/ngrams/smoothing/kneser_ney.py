"""Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998), as KenLM's lmplz has it.

    seen(c w) = (a(c w) - D_k) / sum_w a(c w)       k = min(a(c w), 3)
    rest(c)   = sum_k D_k N_k(c) / sum_w a(c w)     N_k(c): continuations of c with count k

a are the counts of `Counts.adjusted`. For each order, with n_k the n-grams whose count is k,

    D_k = k - (k + 1) Y n_(k+1) / n_k,      Y = n_1 / (n_1 + 2 n_2)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.ngrams.smoothing.base import Contexts, Rule, Smoothing, Summary, weighted

log = logging.getLogger("jaxlm")


@dataclass(frozen=True, kw_only=True)
class KneserNey(Smoothing):
    """Interpolated modified Kneser-Ney: the best of n-grams."""

    adjusts: ClassVar[bool] = True

    fallback: tuple[float, ...] | None = field(
        (0.5, 1.0, 1.5),
        "discounts of counts 1, 2 and 3 or more, where the text has too few n-grams to estimate "
        "them, as in an order of few characters; null: that is an error",
    )

    def validate(self) -> None:
        super().validate()
        if self.fallback is not None and (
            len(self.fallback) != 3
            or not all(0 <= d <= k for k, d in enumerate(self.fallback, start=1))
        ):
            raise UserError("fallback: needs three discounts, from 0 to 1, to 2 and to 3")

    def rule(self, n: int, summary: Summary) -> Rule:
        discounts = self.discounts(summary.kinds(n, adjusted=True), n)

        def shares(contexts: Contexts) -> tuple[np.ndarray, np.ndarray]:
            rest = contexts.divided(weighted(discounts, contexts.kinds))
            return 1 / np.maximum(contexts.total, 1), rest

        return Rule(shares, discounts)

    def discounts(self, kinds: np.ndarray, n: int) -> tuple[float, float, float]:
        """D_1, D_2 and D_3 of order n, of which kinds[k] n-grams have the count k.

        Raises `UserError` where they cannot be estimated and `fallback` is null.
        """
        if (kinds[1:4] > 0).all():
            y = kinds[1] / (kinds[1] + 2 * kinds[2])
            one, two, three = (k - (k + 1) * y * kinds[k + 1] / kinds[k] for k in (1, 2, 3))
            if 0 <= one <= 1 and 0 <= two <= 2 and 0 <= three <= 3:
                return float(one), float(two), float(three)
        if self.fallback is None:
            raise UserError(
                f"fallback: the text has too few {n}-grams that occur 1, 2 and 3 times to estimate "
                "discounts; set fallback: [0.5, 1, 1.5], or take more text"
            )
        log.debug("order %d: discounts %s instead of estimated ones", n, self.fallback)
        one, two, three = self.fallback
        return one, two, three
