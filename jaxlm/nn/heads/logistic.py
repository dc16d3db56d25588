"""Logistic regression: the scores of a bag are linear in the weights of its features.

    scores = x W + b                                    [B, C]
    minimised: mean over texts of -log softmax(scores)[c] + l2 / 2 |W|^2

The kernel [F, C] starts at zero. scikit-learn's `LogisticRegression(C=C)` on n texts has
l2 = 1 / (C n).

    objective: {type: classification, head: {type: logistic, l2: 1.0e-4}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import field
from jaxlm.nn.dropout import dropout
from jaxlm.nn.heads.base_bag import BagHead, BagHeadConfig, apart


@dataclass(frozen=True, kw_only=True)
class Logistic(BagHeadConfig):
    """Score the features of a bag by one kernel."""

    dropout: float = field(0.0, "dropout of features", ge=0, lt=1)
    l2: float = field(0.0, "half of this times the square of the kernel is added to the loss", ge=0)

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> LogisticHead:
        return LogisticHead(self, dim, num_labels)


class LogisticHead(BagHead):
    """A kernel [F, C], and a bias."""

    def __init__(self, config: Logistic, dim: int, num_labels: int) -> None:
        self.kernel = nnx.Param(jnp.zeros((dim, num_labels)), axes=("buckets", "labels"))
        zeros = jnp.zeros(num_labels)
        self.bias = nnx.Param(zeros, axes=("labels",)) if config.bias else None
        self.rate, self.l2 = config.dropout, config.l2

    def __call__(
        self, model: Any, hidden: Any, segment_ids: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Scores [B, C] float32; `hidden` is a `Bag`."""
        weights = dropout(hidden.weights, self.rate, key)
        scores = jnp.einsum("bkc,bk->bc", self.kernel[...][hidden.ids], weights)
        return scores if self.bias is None else scores + self.bias[...]

    def penalties(self) -> Mapping[str, jax.Array]:
        """l2: half of its coefficient times the square of the kernel."""
        return {"l2": self.l2 / 2 * jnp.square(self.kernel[...]).sum()} if self.l2 else {}

    def strengths(self) -> jax.Array:
        kernel = self.kernel[...]
        return apart(kernel, (kernel != 0).any(-1))
