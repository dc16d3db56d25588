"""The token embedding: a table [V, D] that is looked up, and serves as the head when tied.

    embed = Embedding(vocab_size, dim, rngs=rngs)
    x = embed(tokens)            # [B, T] -> [B, T, D]
    kernel = embed.attend()      # [D, V], for a tied head

The lookup reads the table in the compute dtype; a vocabulary split over devices stays split.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.mesh import gradient_by_columns
from jaxlm.nn.dense import weight
from jaxlm.nn.embedding_noise import noisy


class Embedding(nnx.Module):
    """A table of vectors, normal with standard deviation `std` at the start.

    `rows`: the logical axis of its rows; those of a short table are not split. An adapter is a
    module with `__call__(tokens, x)`: the vectors of tokens, where x are those of the table alone;
    and with `table(table)`: the table that gives those.
    """

    adapter: Any = None
    has_input: ClassVar[bool] = False

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        rows: str = "vocab",
        std: float = 0.02,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.dtype = jnp.dtype(dtype)
        table = std * jax.random.normal(rngs.params(), (vocab_size, dim), jnp.float32)
        self.table = nnx.Param(table, axes=(rows, "embed"))
        self.of_tokens = rows == "vocab"

    @jax.named_scope("embedding")
    def __call__(
        self, tokens: jax.Array, *, axes: Sequence[str | None] = ("batch", "length")
    ) -> jax.Array:  # [B, T] -> [B, T, D]
        """The rows of the table; an id that is not in it gives NaN, not another row.

        `axes`: the logical axes of the tokens' dims.
        """
        x = jnp.take(weight(self.table, self.dtype), tokens, axis=0, mode="fill")
        x = gradient_by_columns(x, rows=self.table.shape[0], axes=axes)
        x = x if self.adapter is None else self.adapter(tokens, x)
        return noisy(x, axes.index("batch")) if self.of_tokens else x

    def attend(self) -> jax.Array:
        """The table as the kernel [D, V] of a tied head, in the compute dtype."""
        if self.adapter is None:
            return weight(self.table, self.dtype).T
        axes = self.table.get_metadata()["axes"]
        table = nnx.Param(self.adapter.table(self.table.get_value()), axes=axes)
        return weight(table, self.dtype).T
