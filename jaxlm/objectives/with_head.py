"""Objectives that learn by a head beside the language model (`jaxlm.nn.heads`).

    objective: {type: classification, head: {type: classify, pool: mean, dropout: 0.3}}

The model that is trained is the language model with the head as its child `task_head`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxlm.core.config import UserError, type_name
from jaxlm.nn.dropout import split_key
from jaxlm.nn.heads.base import TaskHeadConfig, beside
from jaxlm.objectives.base import Objective

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from jaxlm.core.types import Batch, LanguageModel, ModelConfig, Output


@dataclass(frozen=True, kw_only=True)
class HeadObjective(Objective, abstract=True):
    """The base of objectives that learn by a head. Each has the fields `head` and `classes`."""

    if TYPE_CHECKING:
        head: Any  # TaskHeadConfig
        classes: Any  # tuple[str, ...]

    @property
    def task_head(self) -> TaskHeadConfig | None:
        return self.head

    @property
    def labels(self) -> tuple[str, ...]:
        return self.classes

    def check_model(self, model: ModelConfig) -> None:
        if self.head is None:
            return
        if model.encodes:
            raise UserError(
                f"objective: {type_name(type(self))} has one text, but the model reads a source "
                "and a target; use a model without an encoder of its own"
            )
        self.head.check_model(model)

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
        built = model.build(model.vocab_size, rngs=rngs)
        if self.head is None:
            return built
        return beside(built, self.head, len(self.labels), rngs=rngs)

    def scores(
        self, model: Any, batch: Batch, key: jax.Array | None = None
    ) -> tuple[jax.Array, Output]:
        """The head's scores, float32, and the model's output; `key` switches dropout on."""
        keys = split_key(key, 2)
        segment_ids = batch["segment_ids"]
        out = model(
            batch["tokens"], positions=batch["positions"], segment_ids=segment_ids, key=keys[0]
        )
        return model.task_head(model, out.hidden, segment_ids, keys[1]), out

    def predict(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """What the head says of each row, such as probs [B, C] of the classes."""
        scores, _ = self.scores(model, batch)
        return model.task_head.predict(scores, batch["segment_ids"])
