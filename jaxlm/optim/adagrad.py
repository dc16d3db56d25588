"""AdaGrad (Duchi et al. 2011) as GloVe's code has it, where a step does not damp itself.

    s = clip(gradient) * learning_rate
    parameter -= s / sqrt(G);    G += s ** 2           G starts at `initial`

The common form adds the square first, and leaves the learning rate out of G.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.core.config import field
from jaxlm.optim.base import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class Adagrad(OptimizerConfig):
    """AdaGrad of GloVe's code: divides by the root of the squared steps before."""

    learning_rate: float = field(0.05, "the learning rate of the first step", gt=0)
    clip_norm: float | None = field(
        None, "largest global norm of the gradients; null: not clipped", gt=0, affects="schedule"
    )
    clip_value: float = field(100.0, "largest absolute value of a gradient's number", gt=0)
    initial: float = field(1.0, "sum of squared steps at the start", gt=0)

    def direction(self, axes: Any) -> optax.GradientTransformation:
        def init(params: Any) -> Any:
            return jax.tree.map(lambda p: jnp.full_like(p, self.initial), params)

        def update(gradients: Any, squares: Any, params: Any = None) -> tuple[Any, Any]:
            clipped = jax.tree.map(self.clipped, gradients)
            steps = jax.tree.map(lambda g, s: g * jax.lax.rsqrt(s), clipped, squares)
            squares = jax.tree.map(lambda g, s: s + (self.learning_rate * g) ** 2, clipped, squares)
            return steps, squares

        return optax.GradientTransformation(init, update)

    def clipped(self, gradient: jax.Array) -> jax.Array:
        return jnp.clip(gradient, -self.clip_value, self.clip_value)
