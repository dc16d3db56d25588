"""No objective: a model that came from elsewhere and is neither trained nor measured as it stands.

An encoder that was imported is kept under it. It builds the plain model, and refuses the rest with
a line that says to name an objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxlm.core.config import UserError
from jaxlm.objectives.base import Loss, Objective, Shapes, Transform

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from jaxlm.core.types import Batch, Cache, LanguageModel, ModelConfig, Tokenizer


@dataclass(frozen=True, kw_only=True)
class NoObjective(Objective):
    """Nothing is learnt: the weights came from elsewhere."""

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
        return model.build(model.vocab_size, rngs=rngs)

    def resolve(self, prepared: Any, model: ModelConfig) -> Objective:
        raise _unnamed()

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        raise _unnamed()

    def batch_shapes(self, batch_size: int, seq_len: int) -> Shapes:
        raise _unnamed()

    def loss(
        self, model: LanguageModel, batch: Batch, *, key: jax.Array | None, cache: Cache | None
    ) -> Loss:
        raise _unnamed()


def _unnamed() -> UserError:
    return UserError("objective: none, so there is nothing to measure; name one (objective.type)")
