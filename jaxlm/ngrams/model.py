"""An n-gram model in backoff form, and its answers for many tokens at a time.

    p(w | c) = exp(log_prob[c w])                   where the n-gram c w is stored
             = exp(backoff[c]) p(w | c without its first token)       otherwise

with backoff[c] = 0 for a context that is not stored. Logarithms are natural.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jaxlm.ngrams.counting import find

TOGETHER = 1 << 18  # tokens that are asked for at a time: arrays that fit into a cache


@dataclass(frozen=True)
class Level:
    """The stored n-grams of one order, sorted by key (`jaxlm.ngrams.counting`)."""

    key: np.ndarray  # [M] uint64
    log_prob: np.ndarray  # [M] float64
    backoff: np.ndarray  # [M] float64; 0 in the highest order

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True)
class NgramModel:
    """The model that a smoothing estimates."""

    levels: list[Level]
    vocab_size: int
    bos: int

    @property
    def order(self) -> int:
        return len(self.levels)

    def log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """[T] float64: log p of each token of a stream [T], given those before it as far as its
        bos. bos itself has -inf.
        """
        return self.matched(tokens)[0]

    def matched(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(`log_probs` [T], the order [T] of the longest stored n-gram that ends at each token)"""
        tokens = np.asarray(tokens)
        if len(tokens) <= TOGETHER:
            return self._matched(tokens)
        before = self.order - 1  # tokens whose n-grams the first one of a block continues
        log_p, used = np.empty(len(tokens)), np.empty(len(tokens), np.int64)
        for begin in range(0, len(tokens), TOGETHER):
            first = max(0, begin - before)
            end = begin + TOGETHER
            found = self._matched(tokens[first:end])
            log_p[begin:end], used[begin:end] = (each[begin - first :] for each in found)
        return log_p, used

    def _matched(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_p = self.levels[0].log_prob[tokens].astype(np.float64)
        used = np.ones(len(tokens), np.int64)
        number = tokens.astype(np.int64)  # of the n-gram that ends at each token; -1: not stored
        inside = tokens != self.bos
        for n in range(2, self.order + 1):
            level, below = self.levels[n - 1], self.levels[n - 2]
            known = np.flatnonzero((number[:-1] >= 0) & inside[1:]) + 1
            context = number[known - 1]
            at = find(level.key, self.keys(context, tokens[known]))
            hit = at >= 0
            log_p[known] += below.backoff[context]
            log_p[known[hit]] = level.log_prob[at[hit]]
            used[known[hit]] = n
            number = np.full(len(tokens), -1)
            number[known] = at
        return log_p, used

    def next_log_probs(self, context: np.ndarray) -> np.ndarray:
        """[V] float64: log p of each token after a context of any length; the tokens after its last
        bos count, and no more than the model reads.
        """
        log_p = self.levels[0].log_prob[:].astype(np.float64)
        for n, number in enumerate(self.contexts(context), start=2):
            level = self.levels[n - 1]
            begin, end = np.searchsorted(level.key, self.keys(np.array([number, number + 1]), 0))
            tokens = (level.key[begin:end] % np.uint64(self.vocab_size)).astype(np.int64)
            log_p += self.levels[n - 2].backoff[number]
            log_p[tokens] = level.log_prob[begin:end]
        return log_p

    def contexts(self, context: np.ndarray) -> list[int]:
        """The numbers of the last 1, 2, ... tokens as n-grams, at most N - 1 of them, as far as
        they are stored.
        """
        tokens = np.asarray(context[max(0, len(context) - self.order + 1) :], np.int64)
        found: list[int] = []
        ending = tokens.tolist()  # the numbers of the n-grams that end at each token
        for n in range(1, len(tokens) + 1):
            if ending[-1] < 0:
                break
            found.append(ending[-1])
            if n < len(tokens):
                ending = [-1] * n + [
                    self._number(n + 1, ending[t - 1], int(tokens[t]))
                    for t in range(n, len(tokens))
                ]
        return found

    def _number(self, n: int, context: int, token: int) -> int:
        """The number of an n-gram of order n; -1: it is not stored."""
        if context < 0 or token == self.bos:
            return -1
        return int(find(self.levels[n - 1].key, self.keys(np.array([context]), token))[0])

    def keys(self, context: np.ndarray, token: np.ndarray | int) -> np.ndarray:
        """The keys of contexts' numbers, each with a token."""
        key = context.astype(np.uint64) * np.uint64(self.vocab_size)
        return key + np.asarray(token).astype(np.uint64)

    def only(self, kept: list[np.ndarray]) -> NgramModel:
        """The model with the n-grams where `kept` is true; the contexts of those must be kept."""
        levels, numbers = [], np.arange(1)
        for level, keep in zip(self.levels, kept, strict=True):
            key = level.key[keep]
            context = numbers[(key // np.uint64(self.vocab_size)).astype(np.int64)]
            assert (context >= 0).all()
            key = self.keys(context, key % np.uint64(self.vocab_size))
            levels.append(Level(key, level.log_prob[keep], level.backoff[keep]))
            numbers = np.where(keep, np.cumsum(keep) - 1, -1)
        return replace(self, levels=levels)
