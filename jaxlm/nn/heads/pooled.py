"""The base of heads that score one vector of a whole row: it is pooled from the hidden states.

scores = W pool(h) + b                             [B, C]
scores = W activation(W' pool(h) + b') + b         with a dense layer before (RoBERTa)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import UserError, field
from jaxlm.nn.dense import Dense
from jaxlm.nn.ffn import ACTIVATIONS
from jaxlm.nn.heads.base import TaskHead, TaskHeadConfig
from jaxlm.nn.pool import POOLS

DENSE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    **{name: ACTIVATIONS[name][0] for name in ("relu", "gelu", "silu")},
}
Pool = Literal["last", "mean", "max", "first", "pooler"]


@dataclass(frozen=True, kw_only=True)
class Pooled(TaskHeadConfig, abstract=True):
    """The base of heads that score one vector for a row."""

    pool: Pool = field(
        "mean", "how hidden states become one vector; pooler: the model's own (model.head.pooler)"
    )
    dense: Literal["tanh", "relu", "gelu", "silu"] | None = field(
        None, "a dense layer with this activation before the scores; null: none"
    )

    def check_model(self, model: Any) -> None:
        if self.pool == "pooler" and not model.has_pooler:
            raise UserError(
                "objective.head.pool: pooler, but the model has none; set model.head.pooler to "
                "true, or choose last, mean, max or first"
            )

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> TaskHead:
        return Classifier(self, dim, num_labels, rngs=rngs)


class Classifier(TaskHead):
    """Scores [B, C] of a pooled vector."""

    def __init__(self, config: Pooled, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, dim, num_labels, rngs=rngs)
        self.pool, self.activation = config.pool, config.dense
        square: dict[str, Any] = {"inputs": {"embed": dim}, "outputs": {"act_embed": dim}}
        self.dense = Dense(**square, bias=True, rngs=rngs) if config.dense else None

    @jax.named_scope("head")
    def __call__(
        self,
        model: Any,
        hidden: jax.Array,  # [B, T, D]
        segment_ids: jax.Array,  # [B, T]
        key: jax.Array | None = None,
    ) -> jax.Array:  # [B, C]
        if self.pool == "pooler":
            pooled = model.pool(hidden).astype(jnp.float32)
        else:
            pooled = POOLS[self.pool](hidden.astype(jnp.float32), segment_ids > 0)
        if self.dense is not None and self.activation is not None:
            pooled = DENSE[self.activation](self.dense(pooled))
        return self.score(pooled, key)

    def predict(self, scores: jax.Array, segment_ids: jax.Array) -> Mapping[str, jax.Array]:
        """logits and probs [B, C]."""
        return {"logits": scores, "probs": jax.nn.softmax(scores)}
