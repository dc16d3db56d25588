"""A smoothing: it discounts counts, and what it takes away goes to the order below.

    p(w | c) = seen(c w) + rest(c) p(w | c without its first token)

    seen(c w) = (count(c w) - D_k) scale(c)       k = min(count(c w), 3), D_0 = 0

    p(w) of order 0 = 1 / (number of tokens that can be predicted)

A new one is a file that defines `rule`: the discounts of an order, and scale and rest of contexts
by sums over what continues them. A rule sees no n-gram, so the n-grams may be in memory (`Counts`)
or on disk (`jaxlm.ngrams.on_disk`), in any number of parts, with the same result to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from jaxlm.core.config import Config, Kind, UserError, field
from jaxlm.ngrams.counting import Counts
from jaxlm.ngrams.model import Level, NgramModel


@dataclass(frozen=True)
class Contexts:
    """Sums over the n-grams that continue each of C contexts."""

    total: np.ndarray  # [C] int64: of their counts
    kinds: np.ndarray  # [3, C] int64: how many have the count 1, 2, and 3 or more
    at_start: np.ndarray  # [C] bool: the context begins with bos

    def __add__(self, other: Contexts) -> Contexts:
        return replace(self, total=self.total + other.total, kinds=self.kinds + other.kinds)

    def divided(self, values: np.ndarray) -> np.ndarray:
        """values [C] / total; 1 where the total is 0, as nothing continues the context."""
        return np.divide(values, self.total, out=np.ones(len(values)), where=self.total > 0)


def weighted(discounts: tuple[float, float, float], kinds: np.ndarray) -> np.ndarray:
    """[C] the sum of what is discounted. Not by `@`, whose last bit depends on the number C."""
    one, two, three = discounts
    return one * kinds[0] + two * kinds[1] + three * kinds[2]


@dataclass(frozen=True)
class Rule:
    """How the counts of one order become shares."""

    shares: Callable[[Contexts], tuple[np.ndarray, np.ndarray]]  # (scale [C], rest [C])
    discounts: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of the counts 1, 2, and 3 or more

    def seen(self, count: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """[M] of n-grams with these counts, by the scales [M] of their contexts."""
        return (count - np.array([0.0, *self.discounts])[np.minimum(count, 3)]) * scale

    def shares_without(self, every: Contexts, pruned: Contexts) -> tuple[np.ndarray, np.ndarray]:
        """(scale [C], rest [C]), where the shares of pruned n-grams go to the rest."""
        scale, rest = self.shares(every)
        return scale, rest + scale * (pruned.total - weighted(self.discounts, pruned.kinds))


class Summary:
    """What a smoothing may know of all counts before it gives its rules."""

    order: int
    num_predicted: int  # tokens that can be predicted

    def kinds(self, n: int, *, adjusted: bool) -> np.ndarray:
        """[5]: how many n-grams of order n have the count 0 (unused), 1, 2, 3 and 4."""
        raise NotImplementedError

    def votes(self) -> np.ndarray:
        """[N + 1] int64: the counts of the longest n-grams for which each order is the best, by
        deleted interpolation (`jaxlm.ngrams.smoothing.jelinek_mercer`).
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Smoothing(Config):
    """A smoothing method, which makes probabilities of counts."""

    kind: ClassVar = Kind(
        "smoothings", "smoothing", folder="jaxlm.ngrams.smoothing", default="kneser_ney"
    )
    # counts of orders below the highest are numbers of different tokens before (`Counts.adjusted`)
    adjusts: ClassVar[bool] = False

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

    def check(self, order: int) -> None:
        """Raises `UserError` for settings that a model of this order cannot have."""

    def rule(self, n: int, summary: Summary) -> Rule:
        """The rule of order n. The sum of seen over what continues a context, plus its rest, must
        be 1; so rest is 1 for a context that nothing continues.
        """
        raise NotImplementedError

    def estimate(self, counts: Counts) -> NgramModel:
        """The model of these counts."""
        summary = InMemory(counts)
        lower = counts.predicted / counts.predicted.sum()
        probs: list[np.ndarray] = []
        rests: list[np.ndarray] = []
        kept: list[np.ndarray] = []
        for n, grams in enumerate(counts.orders, start=1):
            rule = self.rule(n, summary)
            used = counts.adjusted(n) if self.adjusts else grams.count
            kept.append(self.keeps(n, grams.count))
            at_start = counts.orders[n - 2].at_start if n > 1 else np.zeros(1, bool)
            every = contexts_of(used, grams.context, at_start)
            out = ~kept[-1]
            pruned = contexts_of(used[out], grams.context[out], at_start)
            scale, rest = rule.shares_without(every, pruned)
            below = lower if n == 1 else probs[-1][grams.suffix]
            seen = rule.seen(used, scale[grams.context])
            probs.append(seen + rest[grams.context] * below)
            rests.append(rest)
        backoffs = [*rests[1:], np.ones(len(counts.orders[-1]))]
        with np.errstate(divide="ignore"):
            levels = [
                Level(grams.key, np.log(p), np.log(backoff))
                for grams, p, backoff in zip(counts.orders, probs, backoffs, strict=True)
            ]
        model = NgramModel(levels, len(counts.predicted), counts.bos)
        return model.only(kept) if any(self.prune) else model

    def keeps(self, n: int, count: np.ndarray) -> np.ndarray:
        """[M] bool: n-grams of order n that are not pruned, by how often they occur."""
        limit = self.prune[min(n, len(self.prune)) - 1] if self.prune else 0
        return count > limit if n > 1 else np.ones(len(count), bool)


def contexts_of(count: np.ndarray, context: np.ndarray, at_start: np.ndarray) -> Contexts:
    """The sums over n-grams with these counts [M] and numbers of contexts [M]."""
    size = len(at_start)
    total = np.bincount(context, count, minlength=size).astype(np.int64)  # exact below 2**53
    kinds = [np.bincount(context[count == k], minlength=size) for k in (1, 2)]
    kinds.append(np.bincount(context[count >= 3], minlength=size))
    return Contexts(total, np.stack(kinds), at_start)


@dataclass(frozen=True)
class InMemory(Summary):
    """The summary of counts in memory."""

    counts: Counts

    @property
    def order(self) -> int:  # type: ignore[override]
        return self.counts.order

    @property
    def num_predicted(self) -> int:  # type: ignore[override]
        return int(self.counts.predicted.sum())

    def kinds(self, n: int, *, adjusted: bool) -> np.ndarray:
        occurs = self.counts.orders[n - 1].count
        if not adjusted or n == self.order:
            return kinds_of(occurs)
        used = self.counts.adjusted(n)
        last = self._last.get(n)
        return kinds_of(used) + (0 if last is None else not_adjusted(used[last], occurs[last]))

    @cached_property
    def _last(self) -> dict[int, int]:
        """By order, the number of the last n-gram by its tokens from right to left."""
        orders, bos = self.counts.orders, self.counts.bos
        found = {1: int(np.flatnonzero(orders[0].count).max(initial=0))}
        for n in range(2, self.order):
            longer = np.flatnonzero(orders[n - 1].suffix == found[n - 1])
            first = longer
            for grams in orders[n - 1 : 0 : -1]:
                first = grams.context[first]
            if not len(longer) or first.max() == bos and first.min() == bos:
                break
            found[n] = int(longer[np.argmax(np.where(first == bos, -1, first))])
        return found

    def votes(self) -> np.ndarray:
        top = self.counts.orders[-1]
        number = np.arange(len(top))  # of the n-gram's end in each order, from the highest on
        shares = []
        for grams in reversed(self.counts.orders):
            size = int(grams.context.max(initial=0)) + 1
            total = np.bincount(grams.context, grams.count, minlength=size)
            shares.append(without_one(grams.count[number], total[grams.context[number]]))
            number = grams.suffix[number]
        shares.append(np.full(len(top), 1 / self.num_predicted))
        return votes_of(top.count, np.array(shares[::-1]))


def kinds_of(count: np.ndarray) -> np.ndarray:
    """[5]: how often each of the numbers 0 to 4 is among the counts [M]."""
    return np.bincount(count[count < 5], minlength=5)


def not_adjusted(used: int, occurs: int) -> np.ndarray:
    """[5] what `kinds_of` gains where one n-gram has its occurrences instead of its adjusted count.

    lmplz does so for the last n-gram from right to left. It is one of all, but in an order of few
    n-grams the discounts differ in the third digit.
    """
    return kinds_of(np.array([occurs])) - kinds_of(np.array([used]))


def without_one(count: np.ndarray, total: np.ndarray) -> np.ndarray:
    """[M] the relative frequency of n-grams if they occurred once less."""
    return np.where(total > 1, (count - 1) / np.maximum(total - 1, 1), 0.0)


def votes_of(count: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """[N + 1] the counts [M] by the order, from 0 on, whose share [N + 1, M] is the largest."""
    best = np.argmax(shares, axis=0)
    return np.bincount(best, count, minlength=len(shares)).astype(np.int64)
