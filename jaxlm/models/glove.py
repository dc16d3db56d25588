"""GloVe: word vectors whose products are the logarithms of co-occurrences (Pennington et al. 2014).

    log X[a, b] ~ w[a] . c[b] + bias_w[a] + bias_c[b]

A word has a vector w as the middle of a window and a vector c as the context of others; the vector
that is used is w + c. Objective `glove` trains it on data of type `cooccurrences`:

    model: {type: glove, hidden_size: 50}
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
from jaxlm.core.types import ModelConfig, Tokenizer


@dataclass(frozen=True, kw_only=True)
class GloveConfig(ModelConfig, type="glove"):
    """Two vectors and two biases for each word."""

    dtype: ClassVar[str] = "float32"  # type: ignore[misc]

    hidden_size: int = field(50, "dimensions of a vector (D)", ge=1)
    vocab_size: int | None = field(None, "words; null: the tokenizer's", ge=1)

    @property
    def output_size(self) -> int:
        return self.hidden_size

    def word_vectors(self, params: Mapping[str, Any], tokenizer: Tokenizer) -> np.ndarray:
        both = np.asarray(params["words"], np.float32) + np.asarray(params["contexts"], np.float32)
        return both[: tokenizer.vocab_size]

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> Glove:
        return Glove(self, vocab_size, rngs=rngs)


class Glove(nnx.Module):
    """The tables, uniform in +-0.5 / D at the start, as GloVe's code draws them."""

    def __init__(self, config: GloveConfig, vocab_size: int, *, rngs: nnx.Rngs) -> None:
        self.config, self.vocab_size = config, vocab_size
        largest = 0.5 / config.hidden_size

        def draw(*shape: int) -> jax.Array:
            return jax.random.uniform(rngs.params(), shape, jnp.float32, -largest, largest)

        self.words = nnx.Param(draw(vocab_size, config.hidden_size), axes=("vocab", "embed"))
        self.contexts = nnx.Param(draw(vocab_size, config.hidden_size), axes=("vocab", "embed"))
        self.word_bias = nnx.Param(draw(vocab_size), axes=("vocab",))
        self.context_bias = nnx.Param(draw(vocab_size), axes=("vocab",))

    def flops_per_token(self, seq_len: int, *, is_causal: bool = True) -> float:
        """Forward FLOPs of a cell: its product."""
        return 2.0 * self.config.hidden_size
