"""DoRA (Liu et al. 2024, arXiv:2402.09353): LoRA of a kernel's direction, and a trained magnitude.

    W' = m (W + s A B) / ||W + s A B||        norms over the inputs, one for each output

    adapter: {type: dora, rank: 8, alpha: 16, targets: [query, value]}

The magnitude m starts at ||W||. What is trained and stored is its difference to ||W||, which starts
at 0, so a run starts from its base whatever the base is. The gradient takes the norm as a constant
(section 4.3 of the paper). Dropout is on the input of A alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.adapters.lora import A, B, LoRA, LowRank, change
from jaxlm.nn.dense import Adaptable

MAGNITUDE = "magnitude"
TINY = 1e-30  # a kernel's column of zeros stays one


@dataclass(frozen=True, kw_only=True)
class DoRA(LoRA):
    """Train a low-rank change of the direction of chosen kernels, and their magnitude
    (arXiv:2402.09353).
    """

    adapts_tables: ClassVar[bool] = False
    __hash__ = LoRA.__hash__

    @property
    def unknown_to_peft(self) -> str | None:
        return "magnitude"

    def build(self, of: Any, rank: int, scale: float, *, rngs: nnx.Rngs) -> LowRank:
        return Rescaled(of, rank, scale, rngs=rngs)

    def changed(self, kernel: jax.Array, own: Mapping[str, Any], scale: float) -> jax.Array:
        return rescaled(kernel, own[A], own[B], own[MAGNITUDE], scale)


class Rescaled(LowRank):
    """The A and B of a kernel, and the change of its magnitude."""

    def __init__(self, of: Adaptable, rank: int, scale: float, *, rngs: nnx.Rngs) -> None:
        super().__init__(of, rank, scale, rngs=rngs)
        shape, axes = self.lora_b.shape, self.lora_b.get_metadata()["axes"]
        at = axes.index("rank")
        where = at + len(shape) - len(axes)
        zeros = jnp.zeros(shape[:where] + shape[where + 1 :], jnp.float32)
        self.magnitude = nnx.Param(zeros, axes=axes[:at] + axes[at + 1 :])

    def __call__(self, x: jax.Array, y: jax.Array, kernel: jax.Array) -> jax.Array:
        factor, new = self._parts(kernel)
        outputs = factor.reshape(factor.shape[self.num_inputs :])  # of one layer, not of experts
        return super().__call__(x, y, kernel) * outputs.astype(y.dtype)

    def kernel(self, kernel: jax.Array) -> jax.Array:
        """m (W + s A B) / ||W + s A B||, float32."""
        factor, new = self._parts(kernel)
        return new * factor

    def _parts(self, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        a, b, m = (p.get_value() for p in (self.lora_a, self.lora_b, self.magnitude))
        return _factor(kernel, a, b, m, self.scale)


def rescaled(
    kernel: jax.Array, a: jax.Array, b: jax.Array, magnitude: jax.Array, scale: float
) -> jax.Array:
    """m (W + s A B) / ||W + s A B||, where m is ||W|| + `magnitude`; float32."""
    factor, new = _factor(kernel, a, b, magnitude, scale)
    return new * factor


def norms(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """||W|| over the inputs of each output, with dims of size 1 in their place."""
    stack = a.ndim + b.ndim - 2 - kernel.ndim
    axes = tuple(range(stack, a.ndim - 1))
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=axes, keepdims=True))


def _factor(
    kernel: jax.Array, a: jax.Array, b: jax.Array, magnitude: jax.Array, scale: float
) -> tuple[jax.Array, jax.Array]:
    """m / ||W + s A B||, with dims of size 1 for the inputs, and W + s A B."""
    new = kernel + change(a, b, kernel.ndim, scale)
    before, after = (jax.lax.stop_gradient(norms(w, a, b)) for w in (kernel, new))
    return (before + magnitude.reshape(before.shape)) / jnp.maximum(after, TINY), new
