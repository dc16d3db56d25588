"""Vectors of the n-grams that end at each token, looked up by their hash.

    config = NgramEmbeddingConfig(orders=(2, 3), buckets=16384)
    module = config.build(hidden_size, rngs=rngs)
    x = embed(tokens) + module(tokens, positions)          # [B, T] -> [B, T, D]

A model of few layers has to spend its first layers on which words go together; a table of
n-grams knows it after a lookup, and costs no FLOPs (Huang et al. 2025, "Over-Tokenized
Transformer", arXiv:2501.16975; hashes as in the Byte Latent Transformer, arXiv:2412.09871).
An n-gram does not reach before the beginning of its document. The vectors start at 0, so the model
starts as the one without them. Several n-grams may share a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import Config, UserError, field
from jaxlm.nn.dense import Dense
from jaxlm.nn.embed import Embedding

FACTOR, MIX = 0x01000193, 0x9E3779B1  # FNV's prime; 2^32 over the golden ratio, an odd number


ABSENT = -1  # the token before a text's first one


@dataclass(frozen=True, kw_only=True)
class NgramEmbeddingConfig(Config):
    """Learned vectors of hashed n-grams of tokens, added to the token embeddings."""

    orders: tuple[int, ...] = field((2, 3), "tokens of an n-gram", ge=2, le=8)
    buckets: int = field(32768, "rows of the table, for each order", ge=1)
    dim: int | None = field(
        None, "size of a row, which a kernel maps to the model's width; null: the width", ge=1
    )

    def validate(self) -> None:
        if not self.orders or len(set(self.orders)) != len(self.orders):
            raise UserError("orders: name one or more, each once, such as [2, 3]")

    @property
    def reach(self) -> int:
        """Tokens before its own that an n-gram looks at."""
        return max(self.orders) - 1

    def build(self, hidden_size: int, **options: Any) -> NgramEmbedding:
        return NgramEmbedding(self, hidden_size, **options)


class NgramEmbedding(nnx.Module):
    """The table of all orders, one after another."""

    def __init__(
        self,
        config: NgramEmbeddingConfig,
        hidden_size: int,
        *,
        std: float,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        size = config.dim or hidden_size
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        rows = len(config.orders) * config.buckets
        self.table = Embedding(rows, size, rows="buckets", std=0.0, **options)
        square = {"act_embed": size}
        self.out = None if config.dim is None else Dense(square, {"embed": hidden_size}, **options)

    @jax.named_scope("ngrams")
    def __call__(
        self,
        tokens: jax.Array,  # [B, T] int
        positions: jax.Array,  # [B, T] int, 0 at the beginning of a document
        before: jax.Array | None = None,  # [B, reach] int: the tokens before the first one
    ) -> jax.Array:  # [B, T, D]
        total = None
        for number, rows in enumerate(self.rows(tokens, positions, before)):
            x = self.table(rows + number * self.config.buckets)
            total = x if total is None else total + x
        assert total is not None
        return total if self.out is None else self.out(total)

    def rows(
        self, tokens: jax.Array, positions: jax.Array, before: jax.Array | None = None
    ) -> list[jax.Array]:
        """The row [B, T] of each order, below `buckets`."""
        c, length = self.config, tokens.shape[1]
        if before is None:
            before = jnp.full((tokens.shape[0], c.reach), ABSENT, jnp.int32)
        row = jnp.concatenate([before, tokens.astype(before.dtype)], axis=1)
        value, found = jnp.zeros(tokens.shape, jnp.uint32), {}
        for back in range(c.reach + 1):
            start = c.reach - back
            token = row[:, start : start + length].astype(jnp.uint32) + 1
            token = jnp.where(positions >= back, token, ABSENT + 1)
            value = (value ^ token) * jnp.uint32(FACTOR)
            value = value ^ (value >> 15)
            found[back + 1] = value * jnp.uint32(MIX)
        return [
            ((found[order] >> 4) % jnp.uint32(c.buckets)).astype(jnp.int32) for order in c.orders
        ]
