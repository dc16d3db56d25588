"""No objective: a model that came from elsewhere and is neither trained nor measured as it is.

An encoder that was imported is kept under it, with its head where it has one. It builds the model,
and refuses the rest with a line that says to name an objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.core.config import UserError, field
from jaxlm.core.rows import RowSpec
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.objectives.base import Loss, Objective, Transform
from jaxlm.objectives.with_head import HeadObjective

if TYPE_CHECKING:
    import jax

    from jaxlm.core.types import Batch, Cache, LanguageModel, ModelConfig, Tokenizer


@dataclass(frozen=True, kw_only=True)
class NoObjective(HeadObjective):
    """Nothing is learnt: the weights came from elsewhere."""

    headless: ClassVar[bool] = True

    head: TaskHeadConfig | None = field(None, "the head beside the model; null: no head")
    classes: tuple[str, ...] = field((), "names of what the head scores")

    def predict(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        if self.head is None:
            raise _unnamed()
        return super().predict(model, batch)

    def resolve(self, prepared: Any, model: ModelConfig) -> Objective:
        raise _unnamed()

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        raise _unnamed()

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        raise _unnamed()

    def loss(
        self, model: LanguageModel, batch: Batch, *, key: jax.Array | None, cache: Cache | None
    ) -> Loss:
        raise _unnamed()


def _unnamed() -> UserError:
    return UserError("objective: none, so there is nothing to measure; name one (objective.type)")
