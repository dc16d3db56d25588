"""A label for each token (named entities, parts of speech): one linear map on every hidden state.

scores = W h_t + b                                  [B, T, C]

head: {type: tag, dropout: 0.1}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.nn.heads.base import TaskHead, TaskHeadConfig


@dataclass(frozen=True, kw_only=True)
class Tag(TaskHeadConfig):
    """Score the labels of each token."""

    objective: ClassVar[str] = "tagging"

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> TaskHead:
        return Tagger(self, dim, num_labels, rngs=rngs)


class Tagger(TaskHead):
    """Scores [B, T, C] of every token."""

    @jax.named_scope("head")
    def __call__(
        self,
        model: Any,
        hidden: jax.Array,  # [B, T, D]
        segment_ids: jax.Array,  # [B, T]
        key: jax.Array | None = None,
    ) -> jax.Array:  # [B, T, C]
        return self.score(hidden.astype(jnp.float32), key)

    def predict(self, scores: jax.Array, segment_ids: jax.Array) -> Mapping[str, jax.Array]:
        """logits and probs [B, T, C]; those of padding mean nothing."""
        return {"logits": scores, "probs": jax.nn.softmax(scores)}

    def matmul_flops(self) -> float:
        return 2.0 * self.kernel.size
