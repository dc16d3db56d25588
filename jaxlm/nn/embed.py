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

from jaxlm.kernels.head_loss import splits_vocabulary
from jaxlm.mesh import columns_of, from_columns, gather_weight, gradient_by_columns, is_split
from jaxlm.nn.embedding_noise import noisy


class Embedding(nnx.Module):
    """A table of vectors, normal with standard deviation `std` at the start.

    `rows`: the logical axis of its rows; those of a short table are not split. `tied`: it is the
    kernel of the head, too. An adapter is a module with `__call__(tokens, x)`: the vectors of
    tokens, where x are those of the table alone; and with `table(table)`: the table that gives
    those.
    """

    adapter: Any = None
    has_input: ClassVar[bool] = False

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        rows: str = "vocab",
        tied: bool = False,
        std: float = 0.02,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.dtype, self.tied = jnp.dtype(dtype), tied
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
        x = self._looked_up(tokens, axes)
        x = x if self.adapter is None else self.adapter(tokens, x)
        return noisy(x, axes.index("batch")) if self.of_tokens else x

    def _looked_up(self, tokens: jax.Array, axes: Sequence[str | None]) -> jax.Array:
        """The rows, by columns where this is less to send than the table."""
        size, dim = self.table.shape
        table = self.table.get_value().astype(self.dtype)
        columns = columns_of((*tokens.shape, dim), rows=size, axes=axes)
        if columns is not None and self._moves_columns(tokens.shape):
            return from_columns(jnp.take(table, tokens, axis=0, mode="fill"), columns, axes=axes)
        table = gather_weight(table, self.table.get_metadata()["axes"], self.dtype)
        x = jnp.take(table, tokens, axis=0, mode="fill")
        return x if columns is None else gradient_by_columns(x, columns)

    def _moves_columns(self, shape: Sequence[int]) -> bool:
        """Whether the rows themselves go by columns, and not their gradient alone.

        Not if a tied head gathers the table anyway. Where `tensor` or `stage` split more, the
        partitioner would send the rows several times.
        """
        if is_split("tensor") or is_split("stage"):
            return False
        return not self.tied or splits_vocabulary(shape, self.table.shape[0])

    def attend(self) -> jax.Array:
        """The table as the kernel [D, V] of a tied head, in the compute dtype, not gathered."""
        table = self.table.get_value()
        if self.adapter is not None:
            table = self.adapter.table(table)
        return table.astype(self.dtype).T
