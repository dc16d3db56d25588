"""The start and the end of a span, such as an answer in a text (Devlin et al. 2019, 4.2).

    [start_t, end_t] = W h_t + b                        [B, T, 2]

The probabilities are a softmax over the tokens of the row that are not padding.

    head: {type: span, dropout: 0.0}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.nn.heads.base import TaskHead, TaskHeadConfig
from jaxlm.nn.heads.tag import Tagger


@dataclass(frozen=True, kw_only=True)
class Span(TaskHeadConfig):
    """Score each token as the first and as the last one of a span."""

    objective: ClassVar[str] = "question_answering"
    scores_labels: ClassVar[bool] = False

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> TaskHead:
        """The head; `num_labels` has no effect, as there are two scores."""
        return SpanScorer(self, dim, 2, rngs=rngs)


class SpanScorer(Tagger):
    """Scores [B, T, 2]: of the start, and of the end."""

    def predict(self, scores: jax.Array, segment_ids: jax.Array) -> Mapping[str, jax.Array]:
        """logits [B, T, 2]; start_probs and end_probs [B, T], 0 at padding."""
        real = (segment_ids > 0)[..., None]
        low = jnp.finfo(scores.dtype).min  # not -inf: a row may be nothing but padding
        probs = jax.nn.softmax(jnp.where(real, scores, low), axis=1) * real
        return {"logits": scores, "start_probs": probs[..., 0], "end_probs": probs[..., 1]}
