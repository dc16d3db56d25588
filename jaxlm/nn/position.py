"""Where a token stands: rotary, learned and sinusoidal positions, all from `positions` [B, T].

Rotary (Su et al. 2021) turns each pair of features (a, b) of a query or key by the angle
position * theta**(-2i/R), i the pair's number of R/2 pairs:

    rotary = rotary_angles(positions, head_dim, theta=10_000.0)
    q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)

so that q.k depends on the distance alone. Angles are formed once and used by every layer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.nn.dense import weight


class Rotary(NamedTuple):
    """Cosines and sines of the angles, float32."""

    cos: jax.Array  # [B, T, R/2]
    sin: jax.Array  # [B, T, R/2]


def rotary_angles(
    positions: jax.Array,  # [B, T] int
    head_dim: int,
    *,
    theta: float,
    fraction: float = 1.0,
    scaling: float = 1.0,
) -> Rotary:
    """Angles for the first R = fraction * H features of a head (R is even).

    `scaling` divides the positions: linear interpolation to longer texts (Chen et al. 2023).
    """
    pairs = int(head_dim * fraction) // 2
    frequencies = theta ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs) / scaling
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return Rotary(jnp.cos(angles), jnp.sin(angles))


def apply_rotary(x: jax.Array, rotary: Rotary, *, interleaved: bool = False) -> jax.Array:
    """Turns the first R features of x [B, T, N, H]; the others pass.

    A pair is (i, i + R/2), the layout of Llama in Hugging Face's format, or (2i, 2i + 1) when
    `interleaved`, that of the paper, GPT-J and ChatGLM. The same function up to a permutation of
    features.
    """
    cos, sin = rotary.cos[:, :, None], rotary.sin[:, :, None]  # [B, T, 1, R/2]
    pairs = cos.shape[-1]
    turned, rest = x[..., : 2 * pairs].astype(jnp.float32), x[..., 2 * pairs :]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
        turned = turned.reshape(*x.shape[:-1], 2 * pairs)
    else:
        a, b = turned[..., :pairs], turned[..., pairs:]
        turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return jnp.concatenate([turned.astype(x.dtype), rest], axis=-1)


class LearnedPositions(nnx.Module):
    """A table [P, D] of position vectors, added to the token embedding (GPT-2, BERT)."""

    def __init__(
        self,
        max_seq_len: int,
        dim: int,
        *,
        std: float = 0.02,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.dtype = jnp.dtype(dtype)
        table = std * jax.random.normal(rngs.params(), (max_seq_len, dim), jnp.float32)
        self.table = nnx.Param(table, axes=("pos", "embed"))

    def __call__(self, positions: jax.Array) -> jax.Array:  # [B, T] -> [B, T, D]
        """The rows of the table; NaN past its end, rather than another position's row."""
        return jnp.take(weight(self.table, self.dtype), positions, axis=0, mode="fill")


def sinusoidal(positions: jax.Array, dim: int, *, theta: float = 10_000.0) -> jax.Array:
    """Sines then cosines of geometric frequencies, [B, T, D] float32 (Vaswani et al. 2017)."""
    half = dim // 2
    angles = positions[..., None] * theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def restart(positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Positions [B, T] in which a document continued from an earlier row starts again at 0.

    Only a row's first document can be such a one. Relative positions do not change; angles keep
    their precision in a text of millions of tokens, and a learned table need not be longer than a
    row.
    """
    continued = segment_ids == segment_ids[:, :1]
    return positions - jnp.where(continued, positions[:, :1], 0)
