"""Penalties on the activations of a recurrent network: AR and TAR (Merity et al. 2017,
arXiv:1708.01009, section 4).

With h_t the last layer's output [D] and m its dropout mask, means over the real tokens of a row and
over D:

    AR = alpha mean (m h_t)^2        keeps activations small
    TAR = beta mean (h_t - h_(t-1))^2       keeps them from changing fast

A token that begins a document has no TAR: the state before it is zero. Both are added to the mean
loss of a row, in training alone.

    losses = activation_penalties(h, dropped, segment_ids, positions, ar=2.0, tar=1.0)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.named_scope("activation_penalties")
def activation_penalties(
    outputs: jax.Array,  # [B, T, D]
    dropped: jax.Array,  # [B, T, D] the same after dropout
    segment_ids: jax.Array,  # [B, T]: 0 is padding
    positions: jax.Array,  # [B, T]: 0 begins a document
    *,
    ar: float,
    tar: float,
) -> dict[str, jax.Array]:
    """{name: [B] float32} of the penalties whose weight is not 0."""
    real, losses = segment_ids > 0, {}
    if ar:
        losses["activation_penalty"] = ar * _mean(_squares(dropped), real)
    if tar:
        change = outputs[:, 1:].astype(jnp.float32) - outputs[:, :-1].astype(jnp.float32)
        follows = real[:, 1:] & (positions[:, 1:] > 0)
        losses["temporal_activation_penalty"] = tar * _mean(_squares(change), follows)
    return losses


def _squares(x: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T]
    return jnp.square(x.astype(jnp.float32)).mean(-1)


def _mean(x: jax.Array, counts: jax.Array) -> jax.Array:  # [B, T] -> [B]
    return jnp.where(counts, x, 0).sum(-1) / jnp.maximum(counts.sum(-1), 1)
