"""fastText's classifier: the mean of the embeddings of a text's features, and a linear layer
(Joulin et al. 2017, arXiv:1607.01759).

    h = sum over features f of a text: x_f E_f / sum of |x_f|      [B, H]
    scores = h W                                                   [B, C]

with the words and the hashed n-grams of a bag (`ngrams: 2`) as features. E starts uniform in
[-1/H, 1/H], W at zero; there is no bias by default. fastText descends by SGD, a text at a time,
with a rate that falls to zero. The gradient here is the mean over a batch: batches of B texts need
B times the rate.

    model: {type: bag_of_words, ngrams: 2, buckets: 100000}
    objective: {type: classification, head: {type: averaged, hidden_size: 10}}
    optimizer: {type: sgd, learning_rate: 1.6, schedule: {type: linear}}
    train: {batch_size: 16}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import field
from jaxlm.nn.dropout import dropout
from jaxlm.nn.heads.base_bag import BagHead, BagHeadConfig, apart


@dataclass(frozen=True, kw_only=True)
class Averaged(BagHeadConfig):
    """Average the embeddings of the features of a bag, and score the mean."""

    dropout: float = field(0.0, "dropout of features", ge=0, lt=1)
    bias: bool = field(False, "a bias for each score")
    hidden_size: int = field(10, "the size of an embedding", ge=1)

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> AveragedHead:
        return AveragedHead(self, dim, num_labels, rngs=rngs)


class AveragedHead(BagHead):
    """An embedding [F, H] and a kernel [H, C]."""

    def __init__(self, config: Averaged, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> None:
        size = config.hidden_size
        drawn = jax.random.uniform(rngs.params(), (dim, size), minval=-1 / size, maxval=1 / size)
        self.embedding = nnx.Param(drawn, axes=("buckets", "embed"))
        self.kernel = nnx.Param(jnp.zeros((size, num_labels)), axes=("embed", "labels"))
        zeros = jnp.zeros(num_labels)
        self.bias = nnx.Param(zeros, axes=("labels",)) if config.bias else None
        self.rate = config.dropout

    def __call__(
        self, model: Any, hidden: Any, segment_ids: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Scores [B, C] float32; `hidden` is a `Bag`."""
        weights = dropout(hidden.weights, self.rate, key)
        size = jnp.abs(weights).sum(1, keepdims=True)
        summed = jnp.einsum("bkh,bk->bh", self.embedding[...][hidden.ids], weights)
        scores = summed / jnp.where(size > 0, size, 1.0) @ self.kernel[...]
        return scores if self.bias is None else scores + self.bias[...]

    def strengths(self) -> jax.Array:
        scores = self.embedding[...] @ self.kernel[...]
        return apart(scores, jnp.ones(len(scores), bool))
