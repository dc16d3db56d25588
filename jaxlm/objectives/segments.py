"""Log-probabilities of answers, and sums over the segments of packed rows.

log_p = target_log_probs(model, batch, hidden)              # [B, T], 0 where none counts
sums = segment_sums(log_p * weights, batch["segment_ids"])  # [B, S]: of segments 1 .. S
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.kernels.log_probs import log_probs


def target_log_probs(model: Any, batch: Any, hidden: jax.Array) -> jax.Array:
    """log p of each target [B, T] float32, 0 where its weight is 0; with a gradient."""
    found, _ = log_probs(model.head_input(hidden), model.head(), batch["targets"])
    return jnp.where(batch["loss_weights"] > 0, found, 0.0)


def segment_sums(values: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """[B, T + 1] float32: column s is the sum of a row's values [B, T] over its segment s + 1.

    A row of T tokens has at most that many segments; 0 is padding.
    """
    size = values.shape[1] + 1
    places = jnp.where(segment_ids > 0, segment_ids - 1, size)  # padding is left out
    one = lambda v, i: jax.ops.segment_sum(v, i, num_segments=size)  # noqa: E731
    return jax.vmap(one)(values.astype(jnp.float32), places)
