"""Classes of a whole row: the hidden states are pooled and scored.

    scores = W pool(h) + b                             [B, C]
    scores = W activation(W' pool(h) + b') + b         with a dense layer before (RoBERTa)

The last token is the pool of a decoder (Radford et al. 2018), the mean that of a recurrent model
(Howard and Ruder 2018, arXiv:1801.06146), the first token or the model's own pooler that of an
encoder (Devlin et al. 2019, arXiv:1810.04805).

    head: {type: classify, pool: mean, dropout: 0.3}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxlm.nn.heads.pooled import Pooled
from jaxlm.nn.heads.scalar import Scalar


@dataclass(frozen=True, kw_only=True)
class Classify(Pooled):
    """Score the classes of a row."""

    objective: ClassVar[str] = "classification"

    @property
    def for_number(self) -> Scalar:
        return Scalar(pool=self.pool, dense=self.dense, bias=self.bias)

    def objective_of(self, several: bool) -> str:
        return "multi_label" if several else self.objective

    def problem_type(self, several: bool) -> str:
        return "multi_label_classification" if several else "single_label_classification"
