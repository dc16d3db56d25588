"""Adam, with moments as optax keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.core.config import UserError, field
from jaxlm.optim.base import MomentDtype, OptimizerConfig
from jaxlm.optim.guard import Guarded, keep


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
        return scale_by_adam(self.beta1, self.beta2, self.eps, jnp.dtype(self.mu_dtype))


def scale_by_adam(b1: float, b2: float, eps: float, mu_dtype: Any) -> Guarded:
    """`optax.scale_by_adam`, its state and formulas, for steps that may not be good.

    The moments are stored before the update reads them (`jaxlm.optim.guard`).
    """

    def update(
        grads: Any, state: optax.ScaleByAdamState, params: Any = None, *, good: Any = True, **_: Any
    ) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, b2, 2)
        new = optax.ScaleByAdamState(optax.safe_increment(state.count), mu, nu)
        old = state._replace(mu=optax.tree.cast_like(state.mu, mu))  # mu is rounded at the end
        kept, new = keep(good, new, old)
        corrected = [
            optax.tree.bias_correction(moment, decay, new.count)
            for moment, decay in ((new.mu, b1), (new.nu, b2))
        ]
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), *corrected)
        return updates, kept._replace(mu=optax.tree.cast(kept.mu, mu_dtype))

    return Guarded(optax.scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype).init, update)
