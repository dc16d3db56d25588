"""Adam, with moments as optax keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from jaxlm.core.config import UserError, field
from jaxlm.optim.base import MomentDtype, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Adam(OptimizerConfig):
    """Adam (arXiv:1412.6980)."""

    learning_rate: float = field(1e-3, "the peak learning rate", gt=0)
    beta1: float = field(0.9, "decay of the first moment", ge=0, lt=1)
    beta2: float = field(0.999, "decay of the second moment", ge=0, lt=1)
    eps: float = field(1e-8, "added to the root of the second moment", gt=0)
    mu_dtype: MomentDtype = field("float32", "dtype in which the first moment is kept")

    def validate(self) -> None:
        if type(self) is Adam and self.weight_decay != 0:
            raise UserError(
                "weight_decay: adam has none that is decoupled; use type: adamw, or l2 in the loss"
            )

    def direction(self, axes: Any) -> optax.GradientTransformation:
        return optax.scale_by_adam(
            self.beta1, self.beta2, self.eps, mu_dtype=jnp.dtype(self.mu_dtype)
        )
