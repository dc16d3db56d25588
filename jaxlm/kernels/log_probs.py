"""The log-probability of every target, with a gradient, and the entropy of what it is drawn from.

    log_p, entropy = log_probs(hidden, model.head(), targets)

For logits z, at temperature c:

    log p(t) = z_t / c - logsumexp(z / c)        H = -sum_i p_i log p_i

`jaxlm.kernels.cross_entropy` is for losses that are a weighted sum of log p. This is for those that
are another function of it. Some tokens' logits are in memory at a time; the backward pass computes
them again.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxlm.kernels.cross_entropy import HeadParams, logits

CHUNK = 512  # tokens of a row whose logits are in memory at a time


@jax.named_scope("head")
def log_probs(
    hidden: jax.Array,  # [B, T, D]
    head: HeadParams,
    targets: jax.Array,  # [B, T] int
    *,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """(log p of each target [B, T], entropy in nats [B, T] without a gradient), float32."""
    length = hidden.shape[1]
    size = min(CHUNK, length)
    count = -(-length // size)

    def one(chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return _look(*chunk, head, temperature)

    if count == 1:
        return one((hidden, targets))
    found = jax.lax.map(jax.checkpoint(one), (_cut(hidden, count), _cut(targets, count)))
    log_p, entropy = (jnp.moveaxis(x, 0, 1).reshape(len(hidden), -1)[:, :length] for x in found)
    return log_p, entropy


def _look(
    hidden: jax.Array, targets: jax.Array, head: HeadParams, temperature: float
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


def _cut(x: jax.Array, count: int) -> jax.Array:
    """[B, T, ...] -> [count, B, CHUNK, ...], filled up with zeros."""
    x = jnp.pad(x, ((0, 0), (0, count * CHUNK - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(x.shape[0], count, CHUNK, *x.shape[2:]), 1, 0)
