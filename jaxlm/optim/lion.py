"""Lion: the sign of an average of gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from jaxlm.core.config import field
from jaxlm.optim.base import MomentDtype, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Lion(OptimizerConfig):
    """Lion (arXiv:2302.06675): the sign of a momentum."""

    learning_rate: float = field(1e-4, "the peak learning rate", gt=0)
    beta1: float = field(0.9, "weight of the momentum in the update, before its sign", ge=0, lt=1)
    beta2: float = field(0.99, "decay of the momentum", ge=0, lt=1)
    mu_dtype: MomentDtype = field("float32", "dtype in which the momentum is kept")

    def direction(self, axes: Any) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.beta1, self.beta2, jnp.dtype(self.mu_dtype))
