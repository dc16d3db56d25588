"""One number for a whole row: a reward (Ouyang et al. 2022, arXiv:2203.02155), or a regression.

value = w pool(h) + b                               [B, 1]

head: {type: scalar, pool: last, bias: false, dropout: 0.0}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
from flax import nnx

from jaxlm.core.config import field
from jaxlm.nn.heads.base import TaskHead
from jaxlm.nn.heads.pooled import Classifier, Pool, Pooled


@dataclass(frozen=True, kw_only=True)
class Scalar(Pooled):
    """Give one number for a row."""

    objective: ClassVar[str] = "regression"
    scores_labels: ClassVar[bool] = False

    pool: Pool = field(
        "last", "how hidden states become one vector; pooler: the model's own (model.head.pooler)"
    )

    def hf_labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        return ("LABEL_0",)

    def problem_type(self, several: bool) -> str:
        return "regression"

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> TaskHead:
        """The head; `num_labels` has no effect, as there is one number."""
        return Regressor(self, dim, 1, rngs=rngs)


class Regressor(Classifier):
    """A number [B, 1] from a pooled vector."""

    def predict(self, scores: jax.Array, segment_ids: jax.Array) -> Mapping[str, jax.Array]:
        """values [B]."""
        return {"values": scores[:, 0]}
