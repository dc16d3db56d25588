"""The interface of recurrent layers to a model: the base of the cells in `jaxlm.nn.recurrent`.

    layer = CELLS["lstm"](inputs=D, hidden=H, rngs=rngs)
    y, state = layer(x, reset, layer.init_state(batch_size))        # [T, B, D] -> [T, B, H]

All arrays are time-major.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels.recurrence import Result, State, Steps, outputs_of


class RecurrentLayer(nnx.Module):
    """One recurrent layer over time."""

    state_names: ClassVar[tuple[str, ...]] = ("h",)
    # Whether gates see the state: only then are there recurrent weights, and a loop over time.
    recurrent_kernel: ClassVar[bool] = True
    own_activation: ClassVar[bool] = True  # no other one can be chosen

    def __init__(self, inputs: int, hidden: int, **options: Any) -> None:
        self.hidden = hidden

    @jax.named_scope("recurrence")
    def __call__(
        self,
        x: jax.Array,  # [T, B, D]
        reset: jax.Array,  # [T, B] bool: the state is zero before this step
        state: State,  # {"h": [B, H], ...} float32
        *,
        key: jax.Array | None = None,
    ) -> Result:
        """Outputs [T, B, H] in the compute dtype, and the state after the last step.

        `key` switches dropout of recurrent weights on.
        """
        return outputs_of(self.steps(x, reset, state, key=key))

    def steps(
        self,
        x: jax.Array,
        reset: jax.Array,
        state: State,
        *,
        every_state: bool = False,
        key: jax.Array | None = None,
    ) -> Steps:
        """The outputs as "h" and, with `every_state`, the rest of the state after every step."""
        raise NotImplementedError

    def init_state(self, batch_size: int) -> State:
        return {
            name: jnp.zeros((batch_size, self.hidden), jnp.float32) for name in self.state_names
        }


def uniform_kernel(shape: tuple[int, ...], size: int, rngs: nnx.Rngs) -> jax.Array:
    """Draws from U(-1/sqrt(size), 1/sqrt(size))."""
    bound = 1 / math.sqrt(size)
    return jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)
