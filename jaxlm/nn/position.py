"""The place of a token: rotary, learned, sinusoidal, relative or no positions, by config.

Rotary (Su et al. 2021, arXiv:2104.09864) turns each pair of features (a, b) of a query or key by
the angle position * theta**(-2i/R), i the pair's number of R/2 pairs:

    rotary = RotaryConfig(theta=500_000.0).angles(rows, head_dim)
    q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)

so that q.k depends on the distance alone. Angles are formed once and used by every layer. A
`scaling` stretches a trained model to longer texts (`jaxlm.nn.rope_scaling`). Relative positions
(Raffel et al. 2020, arXiv:1910.10683, section 2.1) add a learned number to each score, by head and
by the distance's bucket.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.core.types import PositionConfig
from jaxlm.nn.dense import weight
from jaxlm.nn.rope_scaling import ScalingConfig


class Rows(NamedTuple):
    """The places of tokens: masks and positions are made of them."""

    positions: jax.Array  # [B, T] int
    segment_ids: jax.Array  # [B, T] int
    prefix: jax.Array | None = None  # [B, T] bool: seen by all of its document


class Rotary(NamedTuple):
    """Cosines and sines of the angles, float32."""

    cos: jax.Array  # [B, T, R/2]
    sin: jax.Array  # [B, T, R/2]


# ------------------------------------------------------------------------------------------ configs


@dataclass(frozen=True, kw_only=True)
class RotaryConfig(PositionConfig, type="rotary"):
    """Rotary positions: queries and keys are turned by their place."""

    theta: float = field(10_000.0, "base of the angles", gt=1)
    fraction: float = field(1.0, "part of each head that is turned", gt=0, le=1)
    interleaved: bool = field(False, "pairs are (2i, 2i+1) instead of (i, i + half)")
    scaling: ScalingConfig | None = field(None, "how longer texts are reached; null: not at all")

    def check_head(self, head_dim: int) -> None:
        if int(head_dim * self.fraction) % 2:
            raise UserError(
                f"position.fraction: {self.fraction} of head_dim {head_dim} is odd; "
                "rotary positions turn pairs, make it even"
            )

    @property
    def per_layer(self) -> bool:
        return True

    @property
    def grows(self) -> bool:
        return self.scaling is not None and self.scaling.grows

    @jax.named_scope("attention")
    def angles(self, rows: Rows, head_dim: int) -> Rotary:
        """The angles of tokens for the first R = fraction * H features of a head.

        Frequencies are formed here, not by the program: a power that a compiler rounds in another
        way turns far tokens by another angle.
        """
        size = int(head_dim * self.fraction)
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        frequencies: Any = 1 / np.float32(self.theta) ** exponents  # as models were trained with
        factor = 1.0
        if self.scaling is not None:
            frequencies, factor = self.scaling.apply(frequencies, self.theta, rows)
        angles = rows.positions[..., None].astype(jnp.float32) * frequencies
        return Rotary(jnp.cos(angles) * factor, jnp.sin(angles) * factor)


@dataclass(frozen=True, kw_only=True)
class LearnedConfig(PositionConfig, type="learned"):
    """A learned vector for each position, added to the embedding (GPT-2, BERT)."""

    max_seq_len: int = field(REQUIRED, "positions that there are vectors for", ge=1)
    offset: int = field(0, "row of the table that position 0 has", ge=0)

    @property
    def limit(self) -> int:
        return self.max_seq_len

    def build(self, dim: int, num_heads: int, **options: Any) -> nnx.Module:
        return LearnedPositions(self, dim, **options)

    def add(self, x: jax.Array, positions: jax.Array, module: Any, **rows: jax.Array) -> jax.Array:
        self.check_length(x.shape[1])
        return x + module(positions)

    def check_length(self, length: int) -> None:
        """Raises `UserError` for rows of more tokens than there are positions."""
        if length > self.max_seq_len:
            raise UserError(
                f"model.position.max_seq_len: {self.max_seq_len} learned positions, but rows "
                f"have {length} tokens; raise it or shorten the rows"
            )


@dataclass(frozen=True, kw_only=True)
class SinusoidalConfig(PositionConfig, type="sinusoidal"):
    """Sines and cosines added to the embedding (Vaswani et al. 2017)."""

    theta: float = field(10_000.0, "base of the frequencies", gt=1)

    def add(self, x: jax.Array, positions: jax.Array, module: Any, **rows: jax.Array) -> jax.Array:
        return x + sinusoidal(positions, x.shape[-1], theta=self.theta).astype(x.dtype)


@dataclass(frozen=True, kw_only=True)
class RelativeConfig(PositionConfig, type="relative"):
    """A learned bias on the scores, by head and bucket of the distance (T5)."""

    num_buckets: int = field(32, "buckets of distances, half of them exact", ge=2)
    max_distance: int = field(128, "all distances from here on share a bucket", ge=2)

    def build(self, dim: int, num_heads: int, **options: Any) -> RelativeBias:
        return RelativeBias(self, num_heads, rngs=options["rngs"], std=options["std"])

    @property
    def has_bias(self) -> bool:
        return True

    def bias(self, module: RelativeBias, is_causal: bool) -> Any:
        return module.bias(is_causal)


@dataclass(frozen=True, kw_only=True)
class NoPositionConfig(PositionConfig, type="none"):
    """No positions: order follows from the causal mask alone."""

    @property
    def per_layer(self) -> bool:
        return True


# ------------------------------------------------------------------------------------------- rotary


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


# --------------------------------------------------------------------------- learned and sinusoidal


class LearnedPositions(nnx.Module):
    """A table [P, D] of position vectors, added to the token embedding."""

    def __init__(
        self,
        config: LearnedConfig,
        dim: int,
        *,
        std: float = 0.02,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.dtype, self.offset = jnp.dtype(dtype), config.offset
        self.table = position_table(config, dim, std=std, rngs=rngs)

    def __call__(self, positions: jax.Array) -> jax.Array:
        """The table's rows [B, T, D], for `positions` [B, T]; NaN past the end."""
        return position_rows(self.table, positions + self.offset, self.dtype)


def position_table(config: LearnedConfig, dim: int, *, std: float, rngs: nnx.Rngs) -> nnx.Param:
    """A vector for each row, [offset + max_seq_len, D] float32."""
    shape = (config.offset + config.max_seq_len, dim)
    draws = std * jax.random.normal(rngs.params(), shape, jnp.float32)
    return nnx.Param(draws, axes=("pos", "embed"))


def position_rows(table: nnx.Param, index: jax.Array, dtype: Any) -> jax.Array:
    """The table's rows [B, T, D]; NaN past the end, rather than another position's row."""
    return jnp.take(weight(table, dtype), index, axis=0, mode="fill")


def sinusoidal(positions: jax.Array, dim: int, *, theta: float = 10_000.0) -> jax.Array:
    """Sines then cosines of geometric frequencies, [B, T, D] float32 (Vaswani et al. 2017)."""
    half = dim // 2
    exponents = np.arange(half, dtype=np.float32) / np.float32(half)
    angles = positions[..., None] * (1 / np.float32(theta) ** exponents)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


# ----------------------------------------------------------------------------------------- relative


class RelativeBias(nnx.Module):
    """A table [buckets, N] that `bias` reads at the bucket of each distance."""

    def __init__(
        self, config: RelativeConfig, num_heads: int, *, std: float | None, rngs: nnx.Rngs
    ) -> None:
        self.num_buckets, self.max_distance = config.num_buckets, config.max_distance
        shape = (config.num_buckets, num_heads)
        table = (0.02 if std is None else std) * jax.random.normal(rngs.params(), shape)
        self.table = nnx.Param(table, axes=("buckets", "heads"))

    @jax.named_scope("attention")
    def bias(self, is_causal: bool) -> Any:
        """A `jaxlm.kernels.attention.Bias`; a causal one has no buckets for later keys."""
        buckets = partial(
            relative_bucket,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
            both_sides=not is_causal,
        )
        table = self.table.get_value().astype(jnp.float32)
        # a pytree, so that layers that run elsewhere can be given it
        return jax.tree_util.Partial(partial(_added, buckets), table)


def _added(
    bucket_of: Callable[[jax.Array], jax.Array],
    table: jax.Array,
    q_positions: jax.Array,
    k_positions: jax.Array,
) -> jax.Array:
    """The bias that is added to the scores, [B, N, T, S]."""
    distance = k_positions[:, None, :] - q_positions[:, :, None]  # [B, T, S]
    return jnp.moveaxis(jnp.take(table, bucket_of(distance), axis=0), -1, 1)


def relative_bucket(
    distance: jax.Array, num_buckets: int, max_distance: int, *, both_sides: bool
) -> jax.Array:
    """The bucket of key position minus query position.

    Half of the buckets hold one distance each, the others grow by equal factors up to
    `max_distance`. With `both_sides` the upper half of all buckets is for later keys; without, all
    of those share bucket 0.
    """
    bucket = jnp.zeros_like(distance)
    if both_sides:
        num_buckets //= 2
        bucket = jnp.where(distance > 0, num_buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = num_buckets // 2
    grown = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
    grown = grown / math.log(max_distance / exact) * (num_buckets - exact)
    far = jnp.minimum(exact + grown.astype(jnp.int32), num_buckets - 1)
    return bucket + jnp.where(distance < exact, distance, far)


@jax.named_scope("attention")
def restart(positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Positions [B, T] in which a document continued from an earlier row starts again at 0.

    Only a row's first document can be such a one. Relative positions do not change; angles keep
    their precision in a text of millions of tokens, and a learned table need not be longer than a
    row.
    """
    continued = segment_ids == segment_ids[:, :1]
    return positions - jnp.where(continued, positions[:, :1], 0)
