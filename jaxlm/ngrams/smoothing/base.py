"""A smoothing: it discounts counts, and what it takes away goes to the order below.

    p(w | c) = seen(c w) + rest(c) p(w | c without its first token)

    p(w) of order 0 = 1 / (number of tokens that can be predicted)

A new one is a file that defines `shares`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxlm.core.config import Config, Kind, UserError, field
from jaxlm.ngrams.counting import Counts, Grams
from jaxlm.ngrams.model import Level, NgramModel

Shares = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Smoothing(Config):
    """A smoothing method, which makes probabilities of counts."""

    kind: ClassVar = Kind(
        "smoothings", "smoothing", folder="jaxlm.ngrams.smoothing", default="kneser_ney"
    )

    prune: tuple[int, ...] = field(
        (),
        "leave out n-grams that occur at most so often, by order from 1 on; the last number "
        "counts for all higher orders",
    )

    def validate(self) -> None:
        if self.prune and (self.prune[0] != 0 or list(self.prune) != sorted(self.prune)):
            raise UserError(
                f"prune: {list(self.prune)} must begin with 0, as all tokens are kept, and not fall"
            )

    def shares(self, counts: Counts) -> Iterator[Shares]:
        """(seen [M], rest [contexts]) of each order from 1 on. The sum of seen over what continues
        a context, plus its rest, is 1; so rest is 1 for an n-gram that nothing continues.
        """
        raise NotImplementedError

    def estimate(self, counts: Counts) -> NgramModel:
        """The model of these counts."""
        probs: list[np.ndarray] = []
        rests: list[np.ndarray] = []
        kept: list[np.ndarray] = []
        for n, (seen, rest) in enumerate(self.shares(counts), start=1):
            grams = counts.orders[n - 1]
            if n == 1:
                lower = counts.predicted / counts.predicted.sum()
                kept.append(np.ones(len(grams), bool))
            else:
                lower = probs[-1][grams.suffix]
                kept.append(grams.count > self._limit(n))
                rest = rest + by_context(counts, n, np.where(kept[-1], 0.0, seen))
            probs.append(seen + rest[grams.context] * lower)
            rests.append(rest)
        backoffs = [*rests[1:], np.ones(len(counts.orders[-1]))]
        with np.errstate(divide="ignore"):
            levels = [
                Level(grams.key, np.log(p), np.log(backoff))
                for grams, p, backoff in zip(counts.orders, probs, backoffs, strict=True)
            ]
        model = NgramModel(levels, len(counts.predicted), counts.bos)
        return model.only(kept) if any(self.prune) else model

    def _limit(self, n: int) -> int:
        return self.prune[min(n, len(self.prune)) - 1] if self.prune else 0


def by_context(counts: Counts, n: int, values: np.ndarray) -> np.ndarray:
    """[contexts] the sums of values [M] of the n-grams of order n that continue each context."""
    return np.bincount(counts.orders[n - 1].context, values, minlength=counts.num_contexts(n))


def divided(values: np.ndarray, total: np.ndarray) -> np.ndarray:
    """[contexts] values / total; 1 where the total is 0, as of what is not a context."""
    return np.divide(values, total, out=np.ones(len(total)), where=total > 0)


def per_context(values: np.ndarray, grams: Grams, total: np.ndarray) -> np.ndarray:
    """[M] values / total of the context, which may be 0 only where the values are 0."""
    return values / np.where(total > 0, total, 1)[grams.context]
