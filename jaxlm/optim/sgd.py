"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import optax

from jaxlm.core.config import UserError, field
from jaxlm.optim.base import MomentDtype, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class SGD(OptimizerConfig):
    """Stochastic gradient descent, with (Nesterov) momentum if asked for."""

    learning_rate: float = field(0.1, "the peak learning rate", gt=0)
    momentum: float = field(0.0, "decay of the sum of past gradients; 0: not kept", ge=0, lt=1)
    nesterov: bool = field(False, "look one step ahead along the momentum")
    mu_dtype: MomentDtype = field("float32", "dtype in which the momentum is kept")

    def validate(self) -> None:
        if self.nesterov and not self.momentum:
            raise UserError("nesterov: needs momentum; set momentum, such as 0.9")

    def direction(self, axes: Any) -> optax.GradientTransformation:
        if not self.momentum:
            return optax.identity()
        return optax.trace(self.momentum, self.nesterov, jnp.dtype(self.mu_dtype))
