"""Pooling: the hidden states of a row as one vector.

    pooled = POOLS["mean"](hidden, segment_ids > 0)        # [B, T, D], [B, T] -> [B, D]

Rows are padded on the right. A row of nothing but padding gives a finite vector.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Pooling = Callable[[jax.Array, jax.Array], jax.Array]


def last(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """The last token that is not padding."""
    index = jnp.maximum(real.sum(-1) - 1, 0)
    return jnp.take_along_axis(hidden, index[:, None, None], axis=1)[:, 0]


def mean(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """The mean over all tokens."""
    weights = real.astype(hidden.dtype)[..., None]
    return (hidden * weights).sum(1) / jnp.maximum(weights.sum(1), 1)


def maximum(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """The maximum of each feature over all tokens."""
    low = jnp.where(real[..., None], hidden, -jnp.inf).max(1)
    return jnp.where(real.any(-1, keepdims=True), low, 0.0)


def first(hidden: jax.Array, real: jax.Array) -> jax.Array:
    """The first token, such as BERT's [CLS]."""
    return hidden[:, 0]


POOLS: dict[str, Pooling] = {"last": last, "mean": mean, "max": maximum, "first": first}
