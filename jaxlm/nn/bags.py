"""A bag: the features of a text and their weights, in no order.

    bag = features(tokens, segment_ids, vocab_size=V, ngrams=2, buckets=2**20)
    bag.ids, bag.weights                       # [B, K] int32, [B, K] float32

Feature i < V is token i. The other n-grams share `buckets` features by a hash of their tokens, as
in fastText (Joulin et al. 2017, arXiv:1607.01759); with `hashing` tokens share them as well, and
there are no others (Weinberger et al. 2009, arXiv:0902.2206). A bag is sparse: K counts the
n-grams of a row, and a feature that occurs twice has two places.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

FACTOR = 116_049_371  # fastText's


class Bag(NamedTuple):
    """Features of rows. A place without a feature has id 0 and weight 0."""

    ids: jax.Array  # [B, K] int32
    weights: jax.Array  # [B, K] float32

    def binary(self) -> Bag:
        """The same features, each once with weight 1, sorted."""
        last = jnp.iinfo(jnp.int32).max
        ids = jnp.sort(jnp.where(self.weights > 0, self.ids, last), axis=1)
        new = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        found = new & (ids < last)
        return Bag(jnp.where(found, ids, 0), found.astype(jnp.float32))


def num_features(vocab_size: int, ngrams: int, buckets: int, hashing: bool) -> int:
    """The number of features that `features` chooses from."""
    if hashing:
        return buckets
    return vocab_size + (buckets if ngrams > 1 else 0)


def features(
    tokens: jax.Array,  # [B, T]
    segment_ids: jax.Array,  # [B, T]: 0 is padding; an n-gram is within one segment
    *,
    vocab_size: int,
    ngrams: int,
    buckets: int,
    hashing: bool = False,
) -> Bag:
    """The n-grams of 1 to `ngrams` tokens: first all of one token, then those of two, and so on."""
    length = tokens.shape[1]
    ids, weights = [], []
    for n in range(1, min(ngrams, length) + 1):
        last, first = segment_ids[:, n - 1 :], segment_ids[:, : length - n + 1]
        if n == 1 and not hashing:
            own = tokens.astype(jnp.int32)
        else:
            pieces = [tokens[:, i : length - n + 1 + i] for i in range(n)]
            own = _hash(pieces, buckets) + (0 if hashing else vocab_size)
        found = (last > 0) & (first == last)
        ids.append(jnp.where(found, own, 0))
        weights.append(found.astype(jnp.float32))
    return Bag(jnp.concatenate(ids, axis=1), jnp.concatenate(weights, axis=1))


def _hash(pieces: list[jax.Array], buckets: int) -> jax.Array:
    """[B, K] int32 in [0, buckets) from the tokens of n-grams, in arithmetic modulo 2**32."""
    mixed = jnp.full(pieces[0].shape, len(pieces), jnp.uint32)
    for piece in pieces:
        mixed = mixed * jnp.uint32(FACTOR) + piece.astype(jnp.uint32)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)  # MurmurHash3's finaliser
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return ((mixed ^ (mixed >> 16)) % jnp.uint32(buckets)).astype(jnp.int32)
