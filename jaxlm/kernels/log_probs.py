"""The log-probability of every target, with a gradient, and the entropy of what it is drawn from.

    log_p, entropy = log_probs(hidden, model.head(), targets)

For logits z, at temperature c:

    log p(t) = z_t / c - logsumexp(z / c)        H = -sum_i p_i log p_i

`jaxlm.kernels.cross_entropy` is for losses that are a weighted sum of log p. This is for those that
are another function of it. The logits of some tokens are in memory at a time
(`jaxlm.kernels.head_chunks`).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from jaxlm.kernels.cross_entropy import HeadParams, logits
from jaxlm.kernels.head_chunks import over_chunks


@jax.named_scope("head")
def log_probs(
    hidden: jax.Array,  # [B, T, D]
    head: HeadParams,
    targets: jax.Array,  # [B, T] int
    *,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """(log p of each target [B, T], entropy in nats [B, T] without a gradient), float32."""
    log_p, entropy = over_chunks(partial(_look, temperature), head, hidden, targets)
    return log_p, entropy


def _look(
    temperature: float, head: HeadParams, hidden: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    z = logits(hidden, head) / temperature
    # a comparison, not a gather: a vocabulary that is split over devices stays split
    index = jax.lax.broadcasted_iota(jnp.int32, z.shape, 2)
    target = jnp.where(index == targets[..., None], z, 0.0).sum(-1)
    total = jax.nn.logsumexp(z, axis=-1)
    log_p = jax.lax.stop_gradient(z - total[..., None])
    # a token of probability 0 adds nothing
    entropy = -jnp.where(jnp.isfinite(log_p), jnp.exp(log_p) * log_p, 0.0).sum(-1)
    return target - total, entropy
