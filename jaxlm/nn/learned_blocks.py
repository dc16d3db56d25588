"""Learned positions of two kinds: the position in the text, and the place within a blank (GLM).

Du et al. 2022 (arXiv:2103.10360, section 2.1.3): a token of the text has (position, 0), the k-th
token that fills a blank has (position of the blank, k). Each has a learned vector; the two are
added to the token's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.nn.position import LearnedConfig, position_rows, position_table


@dataclass(frozen=True, kw_only=True)
class LearnedBlocksConfig(LearnedConfig, type="learned_blocks"):
    """A learned vector for each position, and one for each place within a blank (GLM)."""

    @property
    def row_keys(self) -> frozenset[str]:
        return frozenset({"places"})

    def build(self, dim: int, num_heads: int, **options: Any) -> LearnedBlocks:
        return LearnedBlocks(self, dim, **options)

    def add(
        self,
        x: jax.Array,
        positions: jax.Array,
        module: Any,
        places: jax.Array | None = None,
        **rows: jax.Array,
    ) -> jax.Array:
        """`places` [B, T, 2]: position, and place within a blank; None: there are no blanks."""
        if places is None:
            self.check_length(x.shape[1])
            places = jnp.stack([positions, jnp.zeros_like(positions)], axis=-1)
        return x + module(places)


class LearnedBlocks(nnx.Module):
    """Two tables [P, D] of vectors, whose rows are added to the token embedding."""

    def __init__(
        self,
        config: LearnedBlocksConfig,
        dim: int,
        *,
        std: float = 0.02,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.dtype, self.offset = jnp.dtype(dtype), config.offset
        self.table = position_table(config, dim, std=std, rngs=rngs)
        self.blocks = position_table(config, dim, std=std, rngs=rngs)

    def __call__(self, places: jax.Array) -> jax.Array:
        """The sum of both tables' rows [B, T, D], for `places` [B, T, 2]; NaN past the end."""
        rows = places + self.offset
        return position_rows(self.table, rows[..., 0], self.dtype) + position_rows(
            self.blocks, rows[..., 1], self.dtype
        )
