"""From the counts of parts to probabilities, and to the pieces of the file.

    used.N.P        the counts that the smoothing uses, how many of them are 1, 2, 3 and 4, and for
                    order 2 the sums over the contexts, which several parts may share
    vote.N.P        for deleted interpolation: the best order for an n-gram's end, and its share
    prob.N.P        probabilities (float64), and what the contexts of a part leave to lower orders

An order needs the one below it: the probability of an n-gram's suffix is in whatever part it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial

import numpy as np

from jaxlm.ngrams.binary import Values
from jaxlm.ngrams.counting import sorted_places
from jaxlm.ngrams.on_disk.counting import Plan, Sizes, token_counts
from jaxlm.ngrams.on_disk.work import Arrays, Work
from jaxlm.ngrams.smoothing.base import (
    Contexts,
    Rule,
    Smoothing,
    Summary,
    contexts_of,
    kinds_of,
    not_adjusted,
    without_one,
)


class Estimate(Summary):
    """The steps for one text and smoothing."""

    def __init__(
        self, plan: Plan, sizes: Sizes, work: Work, smoothing: Smoothing, never: list[int]
    ) -> None:
        self.plan, self.sizes, self.work, self.smoothing = plan, sizes, work, smoothing
        self.order, self.parts = plan.order, range(plan.parts)
        self.predicted = np.ones(plan.vocab_size, bool)
        self.predicted[[plan.bos, *never]] = False
        self.num_predicted = int(self.predicted.sum())

    def run(self) -> None:
        """All steps. The rules are asked when what they know is complete."""
        self._stage("used", range(2, self.order + 1), self._used)
        self.rules: dict[int, Rule] = {
            n: self.smoothing.rule(n, self) for n in range(1, self.order + 1)
        }
        self._stage("prob", range(2, self.order + 1), self._probs)

    # ---------------------------------------------------------------------------- what rules know

    def kinds(self, n: int, *, adjusted: bool) -> np.ndarray:
        assert adjusted == self.smoothing.adjusts, "as the smoothing declares"
        found = self._kinds(n)
        if not adjusted or n == self.order or n not in self._last:
            return found
        part, last = self._last[n]
        used, occurs = self.used_tokens, self.tokens
        if n > 1:
            used = self.work.load(f"used.{n}.{part}", "count")
            occurs = self.work.load(f"grams.{part}", f"{n}.count")
        return found + not_adjusted(used[last], occurs[last])

    def _kinds(self, n: int) -> np.ndarray:
        if n == 1:
            return kinds_of(self.used_tokens)
        return np.sum([self.work.load(f"used.{n}.{p}", "kinds") for p in self.parts], axis=0)

    @cached_property
    def _last(self) -> dict[int, tuple[int, int]]:
        """By order, the part of the last n-gram by its tokens from right to left, and its place."""
        found = {1: (0, int(np.flatnonzero(self.tokens).max(initial=0)))}
        for n in range(2, self.order):
            part, place = found[n - 1]
            wanted = place + (self.sizes.of(n - 1, part)[0] if n > 2 else 0)
            best = (-1, 0, 0)  # the first token, part, place
            for p in self.parts:
                longer = np.flatnonzero(self.work.load(f"suffix.{n}.{p}", "suffix") == wanted)
                first = longer
                for order in range(n, 1, -1):
                    first = self._context(order, p)[first] if len(first) else first
                for token, at in zip(first.tolist(), longer.tolist(), strict=True):
                    if token != self.plan.bos:
                        best = max(best, (token, p, at))
            if best[0] < 0:
                break
            found[n] = best[1:]
        return found

    def votes(self) -> np.ndarray:
        self._stage("vote", range(2, self.order + 1), self._vote)
        if self.order == 1:
            best, _ = self._first_vote
            return np.bincount(best, self.tokens, minlength=2).astype(np.int64)
        found = [self.work.load(f"vote.{self.order}.{p}", "votes") for p in self.parts]
        return np.sum(found, axis=0)

    # -------------------------------------------------------------------------- tokens, as order 1

    @cached_property
    def tokens(self) -> np.ndarray:
        """[V] int64: occurrences."""
        return token_counts(self.plan, self.work)

    @cached_property
    def used_tokens(self) -> np.ndarray:
        if self.order == 1 or not self.smoothing.adjusts:
            return self.tokens
        return self._num_before(1, 0, self.plan.vocab_size)

    @cached_property
    def token_probs(self) -> np.ndarray:
        """[V] p of each token without a context."""
        every = np.zeros(len(self.tokens), np.int64)
        context = contexts_of(self.used_tokens, every, np.zeros(1, bool))
        scale, rest = self.rules[1].shares(context)
        seen = self.rules[1].seen(self.used_tokens, scale[every])
        return seen + rest[every] * (self.predicted / self.num_predicted)

    @cached_property
    def token_shares(self) -> tuple[np.ndarray, np.ndarray]:
        """(scale [V], rest [V]) of tokens as contexts."""
        size = self.plan.vocab_size
        sums = {}
        for name in ("every", "pruned"):
            whole = np.zeros((4, size), np.int64)
            for p in self.parts:
                begin = int(self.work.load(f"used.2.{p}", "begin"))
                found = self.work.load(f"used.2.{p}", name)
                whole[:, begin : begin + found.shape[1]] += found
            sums[name] = Contexts(whole[0], whole[1:], np.arange(size) == self.plan.bos)
        return self.rules[2].shares_without(sums["every"], sums["pruned"])

    # -------------------------------------------------------------------------------- the steps

    def _stage(self, name: str, orders: range, make: Callable[[int, int], Arrays]) -> None:
        for n in orders:
            names = [f"{name}.{n}.{p}" for p in self.parts]
            self.work.stage(names, partial(make, n))

    def _used(self, n: int, part: int) -> Arrays:
        count = self.work.load(f"grams.{part}", f"{n}.count")
        used = count
        if self.smoothing.adjusts and n < self.order:
            used = self._num_before(n, part, len(count)).astype(np.uint32)
            begin, end = self.work.load(f"grams.{part}", f"{n}.at_start")
            used[begin:end] = count[begin:end]
        arrays = {"count": used, "kinds": kinds_of(used)}
        if n == 2:
            token = self._context(n, part)
            begin = int(token[0]) if len(token) else 0
            every, pruned = self._contexts(n, used, count, token - begin, np.zeros(0, bool))
            arrays["begin"] = np.array(begin)
            arrays["every"] = np.stack([every.total, *every.kinds])
            arrays["pruned"] = np.stack([pruned.total, *pruned.kinds])
        return arrays

    def _num_before(self, n: int, part: int, size: int) -> np.ndarray:
        """[M] int64: how many different tokens come before each n-gram of a part."""
        kinds = np.zeros(size, np.int64)
        for p in self.parts:
            number = self.work.load(f"suffix.{n + 1}.{p}", f"number.{part}")
            kinds[number] += self.work.load(f"suffix.{n + 1}.{p}", f"kinds.{part}")
        return kinds

    def _probs(self, n: int, part: int) -> Arrays:
        used = self.work.load(f"used.{n}.{part}", "count")
        context, rule = self._context(n, part), self.rules[n]
        if n == 2:
            scale, rest = self.token_shares
        else:
            count = self.work.load(f"grams.{part}", f"{n}.count")
            every, pruned = self._contexts(n, used, count, context, self._at_start(n - 1, part))
            scale, rest = rule.shares_without(every, pruned)
        prob = rule.seen(used, scale[context])
        prob += rest[context] * self._of_suffixes("prob", "prob", self.token_probs, n, part)
        return {"prob": prob, "rest": rest} if n > 2 else {"prob": prob}

    def _contexts(
        self, n: int, used: np.ndarray, count: np.ndarray, context: np.ndarray, start: np.ndarray
    ) -> tuple[Contexts, Contexts]:
        """The sums over all n-grams of a part, and over those that are pruned."""
        out = ~self.smoothing.keeps(n, count)
        if not len(start):
            start = np.zeros(int(context.max(initial=-1)) + 1, bool)
        return contexts_of(used, context, start), contexts_of(used[out], context[out], start)

    def _at_start(self, n: int, part: int) -> np.ndarray:
        found = np.zeros(self.sizes.of(n, part)[1], bool)
        begin, end = self.work.load(f"grams.{part}", f"{n}.at_start")
        found[begin:end] = True
        return found

    def _context(self, n: int, part: int) -> np.ndarray:
        key = self.work.load(f"grams.{part}", f"{n}.key")
        return (key // np.uint64(self.plan.vocab_size)).astype(np.int64)

    def _of_suffixes(
        self, unit: str, array: str, of_tokens: np.ndarray, n: int, part: int
    ) -> np.ndarray:
        """[M] the values of the suffixes of a part's n-grams, from the units of the order below."""
        suffix = self.work.load(f"suffix.{n}.{part}", "suffix")
        if n == 2:
            return of_tokens[suffix]
        order, asked = sorted_places(suffix.astype(np.uint64))
        found = np.empty(len(asked), of_tokens.dtype)
        for q in self.parts:
            start, size = self.sizes.of(n - 1, q)
            low, high = np.searchsorted(asked, np.array([start, start + size], np.uint64))
            if low < high:
                values = self.work.load(f"{unit}.{n - 1}.{q}", array)
                found[order[low:high]] = values[(asked[low:high] - np.uint64(start)).astype(int)]
        return found

    # ---------------------------------------------------------------------- deleted interpolation

    @cached_property
    def _first_vote(self) -> tuple[np.ndarray, np.ndarray]:
        """(the best of the orders 0 and 1 for each token, its share)"""
        none = 1 / self.num_predicted
        share = without_one(self.tokens, np.array(self.tokens.sum()))
        return (share > none).astype(np.int64), np.maximum(share, none)

    @cached_property
    def _token_totals(self) -> np.ndarray:
        total = np.zeros(self.plan.vocab_size, np.int64)
        for p in self.parts:
            begin = int(self.work.load(f"used.2.{p}", "begin"))
            found = self.work.load(f"used.2.{p}", "every")[0]
            total[begin : begin + len(found)] += found
        return total

    def _vote(self, n: int, part: int) -> Arrays:
        count = self.work.load(f"grams.{part}", f"{n}.count").astype(np.int64)
        context = self._context(n, part)
        size = self.sizes.of(n - 1, part)[1]
        total = self._token_totals if n == 2 else np.bincount(context, count, minlength=size)
        share = without_one(count, total[context])
        best, highest = self._first_vote
        below = self._of_suffixes("vote", "share", highest, n, part)
        order = self._of_suffixes("vote", "best", best, n, part)
        order = np.where(share > below, n, order)
        arrays = {"share": np.maximum(share, below), "best": order}
        if n == self.order:
            arrays["votes"] = votes_of_orders(count, order, n)
        return arrays

    # ------------------------------------------------------------------------- pieces of the file

    def values(self) -> list[Values]:
        """The model's levels, piece by piece."""
        kept = self._kept_sizes()
        return [
            Values(
                self._keys(n, kept),
                self._logs(n),
                None if n == self.order else self._backoffs(n),
            )
            for n in range(1, self.order + 1)
        ]

    def _keeps(self, n: int, part: int) -> np.ndarray:
        return self.smoothing.keeps(n, self.work.load(f"grams.{part}", f"{n}.count"))

    def _kept_sizes(self) -> Sizes:
        if not any(self.smoothing.prune):
            return self.sizes
        sizes = self.sizes.sizes.copy()
        for n in range(2, self.order + 1):
            sizes[:, n] = [self._keeps(n, p).sum() for p in self.parts]
        return Sizes(sizes)

    def _keys(self, n: int, kept: Sizes) -> Iterator[np.ndarray]:
        size = np.uint64(self.plan.vocab_size)
        if n == 1:
            yield np.arange(self.plan.vocab_size, dtype=np.uint64)
            return
        for p in self.parts:
            key = self.work.load(f"grams.{p}", f"{n}.key")[self._keeps(n, p)]
            if n > 2:
                context, token = np.divmod(key, size)
                number = np.cumsum(self._keeps(n - 1, p)) - 1 + kept.of(n - 1, p)[0]
                key = number.astype(np.uint64)[context.astype(np.int64)] * size + token
            yield key

    def _logs(self, n: int) -> Iterator[np.ndarray]:
        with np.errstate(divide="ignore"):
            if n == 1:
                yield np.log(self.token_probs)
                return
            for p in self.parts:
                yield np.log(self.work.load(f"prob.{n}.{p}", "prob")[self._keeps(n, p)])

    def _backoffs(self, n: int) -> Iterator[np.ndarray]:
        with np.errstate(divide="ignore"):
            if n == 1:
                yield np.log(self.token_shares[1])
                return
            for p in self.parts:
                yield np.log(self.work.load(f"prob.{n + 1}.{p}", "rest")[self._keeps(n, p)])


def votes_of_orders(count: np.ndarray, best: np.ndarray, order: int) -> np.ndarray:
    """[N + 1] the counts [M] by the best order."""
    return np.bincount(best, count, minlength=order + 1).astype(np.int64)
