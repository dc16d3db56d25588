"""A bag: the features of a text and their weights, in no order.

    bag = features(tokens, segment_ids, vocab_size=V, ngrams=2, buckets=2**20)
    bag.ids, bag.weights                       # [B, K] int32, [B, K] float32
    bag.joined().normalised("l2")              # each feature once; weights of length 1

Feature i < V is token i. The other n-grams share `buckets` features by a hash of their tokens, as
in fastText (Joulin et al. 2017, arXiv:1607.01759); with `hashing` tokens share them as well, and
there are no others (Weinberger et al. 2009, arXiv:0902.2206). A bag is sparse: K counts the
n-grams of a row, and a feature that occurs twice has two places until it is `joined`. The weight
of a place may be negative, where ids have signs (`jaxlm.data.tokenizers.hashed_words`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

FACTOR = 116_049_371  # fastText's

LAST = 2**31 - 1  # sorts after all features

Norm = Literal["l1", "l2"]


class Bag(NamedTuple):
    """Features of rows. A place without a feature has id 0 and weight 0."""

    ids: jax.Array  # [B, K] int32
    weights: jax.Array  # [B, K] float32

    def joined(self) -> Bag:
        """Each feature once, with the sum of its weights, sorted by id."""
        ids, sums, new = self._runs()
        return Bag(jnp.where(new, ids, 0), jnp.where(new, sums, 0.0))

    def binary(self) -> Bag:
        """Each feature once with weight 1, sorted by id."""
        ids = jnp.sort(jnp.where(self.weights != 0, self.ids, LAST), axis=1)
        new = _begins(ids)
        return Binary(jnp.where(new, ids, 0), new.astype(jnp.float32))

    def sublinear(self) -> Bag:
        """1 + log w instead of a weight w, of a bag that is joined."""
        found = self.weights != 0
        size = jnp.log(jnp.where(found, jnp.abs(self.weights), 1.0)) + 1
        return self._replace(weights=jnp.where(found, jnp.sign(self.weights) * size, 0.0))

    def normalised(self, norm: Norm) -> Bag:
        """The weights of each row divided by their norm, of a bag that is joined."""
        if norm == "l1":
            size = jnp.abs(self.weights).sum(1, keepdims=True)
        else:
            size = jnp.sqrt(jnp.square(self.weights).sum(1, keepdims=True))
        return self._replace(weights=self.weights / jnp.where(size > 0, size, 1.0))

    def _runs(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(ids sorted, the sum of the weights of each run of equal ids at the run's first place,
        whether a run begins there) [B, K].
        """
        ids = jnp.where(self.weights != 0, self.ids, LAST)
        ids, weights = jax.lax.sort((ids, self.weights), dimension=1, num_keys=1)
        new = _begins(ids)
        run = jnp.cumsum(new, axis=1)  # the number of each place's run, from 1
        sums = jax.vmap(lambda w, r: jnp.zeros(len(w) + 1).at[r].add(w)[r])(weights, run)
        return ids, sums, new


class Binary(Bag):
    """A bag that is binary already: it is not sorted again."""

    def binary(self) -> Bag:
        return self

    def joined(self) -> Bag:
        return self


def _begins(ids: jax.Array) -> jax.Array:
    """[B, K] whether each of the sorted ids is the first of its value, and of a feature."""
    new = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return new & (ids < LAST)


def num_features(
    vocab_size: int, ngrams: int, buckets: int, hashing: bool = False, signed: bool = False
) -> int:
    """The number of features that `features` chooses from."""
    if hashing:
        return buckets
    return _own(vocab_size, signed) + (buckets if ngrams > 1 else 0)


def features(
    tokens: jax.Array,  # [B, T]
    segment_ids: jax.Array,  # [B, T]: 0 is padding; an n-gram is within one segment
    *,
    vocab_size: int,
    ngrams: int,
    buckets: int,
    hashing: bool = False,
    signed: bool = False,
) -> Bag:
    """The n-grams of 1 to `ngrams` tokens: first all of one token, then those of two, and so on.

    signed: id i + b of a vocabulary of 1 + 2 b ids is feature i with the weight -1.
    """
    length, single = tokens.shape[1], _own(vocab_size, signed)
    ids, weights = [], []
    for n in range(1, min(ngrams, length) + 1):
        last, first = segment_ids[:, n - 1 :], segment_ids[:, : length - n + 1]
        found = ((last > 0) & (first == last)).astype(jnp.float32)
        if n == 1 and not hashing:
            minus = tokens >= single
            own = jnp.where(minus, tokens - single + 1, tokens).astype(jnp.int32)
            found = jnp.where(minus, -found, found)
        else:
            pieces = [tokens[:, i : length - n + 1 + i] for i in range(n)]
            own = _hash(pieces, buckets) + (0 if hashing else single)
        ids.append(jnp.where(found != 0, own, 0))
        weights.append(found)
    return Bag(jnp.concatenate(ids, axis=1), jnp.concatenate(weights, axis=1))


def _own(vocab_size: int, signed: bool) -> int:
    """The number of features that are single tokens."""
    return 1 + vocab_size // 2 if signed else vocab_size


def _hash(pieces: list[jax.Array], buckets: int) -> jax.Array:
    """[B, K] int32 in [0, buckets) from the tokens of n-grams, in arithmetic modulo 2**32."""
    mixed = jnp.full(pieces[0].shape, len(pieces), jnp.uint32)
    for piece in pieces:
        mixed = mixed * jnp.uint32(FACTOR) + piece.astype(jnp.uint32)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)  # MurmurHash3's finaliser
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return ((mixed ^ (mixed >> 16)) % jnp.uint32(buckets)).astype(jnp.int32)
