"""Muon: momentum, orthogonalised matrix by matrix, and AdamW for all that is not a

    M <- beta M + (1 - beta) G,   U = orthogonalize((1 - beta) G + beta M)

Jordan 2024, https://kellerjordan.github.io/posts/muon; scale by RMS arXiv:2502.16982. Parameters of
scanned layers and of experts are stacks, [L, E, ...], of independent matrices, and an attention
kernel [D, N, H] is a matrix of D x NH. `Dims` (param_groups.py) says which dims are which. Stacked
dims are neither moved nor merged, as in optax's own Muon, so a stack that is split over devices
stays split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlm.core.config import field
from jaxlm.core.tree import map_with_path
from jaxlm.optim.adam import scale_by_adam
from jaxlm.optim.base import MomentDtype, OptimizerConfig
from jaxlm.optim.guard import Guarded, keep
from jaxlm.optim.param_groups import LOOKUPS, Dims, tree_of_dims


@dataclass(frozen=True, kw_only=True)
class Muon(OptimizerConfig):
    """Muon (Jordan 2024): orthogonalised momentum for matrices, AdamW for all else.

    All else is embeddings, the heads' kernels, and vectors. With `update_rms` set, one learning
    rate and one weight decay serve both parts, at any width (arXiv:2502.16982).
    """

    learning_rate: float = field(3e-3, "the peak learning rate of matrices", gt=0)
    momentum: float = field(0.95, "decay of the momentum", ge=0, lt=1)
    nesterov: bool = field(True, "look one step ahead along the momentum")
    newton_schulz_steps: int = field(5, "iterations of the orthogonalisation", ge=1)
    update_rms: float | None = field(
        0.2, "root mean square of an update; null: singular values of sqrt(max(1, out/in))", gt=0
    )
    adam_learning_rate: float | None = field(
        None, "peak learning rate of parameters that are not matrices; null: the same", gt=0
    )
    adam_beta1: float = field(0.9, "decay of the first moment there", ge=0, lt=1)
    adam_beta2: float = field(0.95, "decay of the second moment there", ge=0, lt=1)
    adam_eps: float = field(1e-8, "added to the root of the second moment there", gt=0)
    mu_dtype: MomentDtype = field("float32", "dtype in which momentum and first moment are kept")

    def direction(self, axes: Any) -> optax.GradientTransformation:
        dtype, labels = jnp.dtype(self.mu_dtype), self._labels(axes)
        muon_dims = jax.tree.map(
            lambda d, label: d if label == "muon" else optax.MaskedNode(),
            tree_of_dims(axes),
            labels,
        )
        muon = scale_by_muon(
            muon_dims,
            beta=self.momentum,
            nesterov=self.nesterov,
            steps=self.newton_schulz_steps,
            rms=self.update_rms,
            dtype=dtype,
        )
        adam = scale_by_adam(self.adam_beta1, self.adam_beta2, self.adam_eps, dtype)
        return Guarded(*optax.partition({"muon": muon, "adam": adam}, labels))

    def relative_rates(self, axes: Any) -> Any:
        adam = (self.adam_learning_rate or self.learning_rate) / self.learning_rate
        return jax.tree.map(lambda label: 1.0 if label == "muon" else adam, self._labels(axes))

    def _labels(self, axes: Any) -> Any:
        def label(path: str, names: tuple[str, ...], dims: Any) -> str:
            return "muon" if dims.inputs and not set(names) & set(LOOKUPS) else "adam"

        return map_with_path(label, axes, tree_of_dims(axes))


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steepest at 0 while it still converges


class MuonState(NamedTuple):
    momentum: Any  # like the parameters


def scale_by_muon(
    dims: Any, *, beta: float, nesterov: bool, steps: int, rms: float | None, dtype: Any
) -> Guarded:
    """Momentum, orthogonalised matrix by matrix.

    `dims` is a tree of `Dims` like the parameters. An orthogonal matrix is scaled by
    rms * sqrt(max(inputs, outputs)), so that its root mean square is about `rms` whatever the
    shape; where `rms` is None by sqrt(max(1, outputs / inputs)), as in Jordan's own version.
    """

    def init(params: Any) -> MuonState:
        return MuonState(jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype), params))

    def update(
        grads: Any, state: MuonState, params: Any = None, *, good: Any = True, **_: Any
    ) -> tuple[Any, MuonState]:
        del params
        mix = lambda m, g: beta * m + (1 - beta) * g  # noqa: E731
        old = optax.tree.cast_like(state.momentum, grads)
        kept, momentum = keep(good, jax.tree.map(mix, old, grads), old)
        ahead = jax.tree.map(mix, momentum, grads) if nesterov else momentum
        updates = jax.tree.map(lambda u, d: _muon_update(u, d, steps, rms), ahead, dims)
        return updates, MuonState(jax.tree.map(lambda m: m.astype(dtype), kept))

    return Guarded(init, update)


def orthogonalize(x: jax.Array, steps: int, eps: float = 1e-7) -> jax.Array:
    """About U V^T for each matrix U S V^T of x [..., I, O], by Newton-Schulz iterations.

    After five steps the singular values are between about 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # the Gram matrix of the short side is the small one
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def _muon_update(x: jax.Array, dims: Dims, steps: int, rms: float | None) -> jax.Array:
    stack = tuple(x.shape[d] for d in dims.stack)
    inputs, outputs = (math.prod(x.shape[d] for d in part) for part in (dims.inputs, dims.outputs))
    scale = (
        math.sqrt(max(1, outputs / inputs))
        if rms is None
        else rms * math.sqrt(max(inputs, outputs))
    )
    # Dims are in the order stack, inputs, outputs, so a reshape is enough.
    return scale * orthogonalize(x.reshape(*stack, inputs, outputs), steps).reshape(x.shape)
