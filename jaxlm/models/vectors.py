"""Word vectors that come from elsewhere: a table [V, D], a row for each id of the tokenizer.

    jaxlm import vectors glove.6B.50d.txt --out runs/glove_6b      # makes a run of this model

It answers `jaxlm neighbours`, `analogy` and `similarity`, and starts the embedding of other models
(`init.vectors`); it is not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm.core.config import field
from jaxlm.core.types import Encoded, ModelConfig, Output, Tokenizer


@dataclass(frozen=True, kw_only=True)
class VectorsConfig(ModelConfig, type="vectors"):
    """A table of word vectors that were imported."""

    dtype: ClassVar[str] = "float32"  # type: ignore[misc]

    hidden_size: int = field(100, "dimensions of a vector (D)", ge=1)
    vocab_size: int | None = field(None, "rows of the table; null: the tokenizer's ids", ge=1)

    @property
    def descends(self) -> bool:
        return False

    @property
    def output_size(self) -> int:
        return self.hidden_size

    def word_vectors(self, params: Mapping[str, Any], tokenizer: Tokenizer) -> np.ndarray:
        return np.asarray(params["table"], np.float32)[: tokenizer.vocab_size]

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> VectorTable:
        return VectorTable(self, vocab_size)


class VectorTable(nnx.Module):
    """The table; the hidden states of a text are its rows."""

    def __init__(self, config: VectorsConfig, vocab_size: int) -> None:
        self.config, self.vocab_size = config, vocab_size
        zeros = jnp.zeros((vocab_size, config.hidden_size), jnp.float32)
        self.table = nnx.Param(zeros, axes=("vocab", "embed"))

    def __call__(
        self,
        tokens: jax.Array,  # [B, T]
        *,
        positions: jax.Array,  # [B, T], not needed
        segment_ids: jax.Array,  # [B, T], not needed
        cache: Any = None,
        encoded: Encoded | None = None,
        key: jax.Array | None = None,
    ) -> Output:
        """The vectors [B, T, D]."""
        return Output(jnp.take(self.table.get_value(), tokens, axis=0, mode="fill"), cache)

    def init_cache(self, batch_size: int, max_len: int, encoded: Encoded | None = None) -> None:
        """None: a table has no state."""
        return None

    def flops_per_token(self, seq_len: int, *, is_causal: bool = True) -> float:
        """0: there are no matmuls."""
        return 0.0
