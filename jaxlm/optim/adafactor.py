"""Adafactor: the second moment of a matrix as the means of its rows and columns.

With R and C the row and column means of G^2, averaged over time (arXiv:1804.04235):

    V = R C / mean(R),   U = G / sqrt(V)

Every statistic is per matrix of a stack of layers or experts (`Dims`, param_groups.py): a stack
behaves as if each matrix were a parameter. Optax's own Adafactor takes one RMS over a whole stack
and factors its two largest dims.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlm.core.config import field
from jaxlm.optim.base import MomentDtype, OptimizerConfig
from jaxlm.optim.param_groups import Dims, tree_of_dims


@dataclass(frozen=True, kw_only=True)
class Adafactor(OptimizerConfig):
    """Adafactor (arXiv:1804.04235): the second moment of a matrix as one row and one column."""

    learning_rate: float = field(1e-2, "the peak learning rate, relative to the weights' RMS", gt=0)
    decay_exponent: float = field(0.8, "at update t the moment decays by 1 - t^-this", gt=0, le=1)
    min_size: int = field(128, "matrices with a smaller dim keep the whole moment", ge=1)
    update_clip: float | None = field(
        1.0, "largest RMS of a matrix's update; null: not clipped", gt=0
    )
    scale_by_weights: bool = field(True, "scale the update of a matrix by the RMS of its weights")
    weights_floor: float = field(1e-3, "lower bound of the RMS of weights in the scale", gt=0)
    momentum: float = field(0.0, "decay of the first moment; 0: not kept", ge=0, lt=1)
    eps: float = field(1e-30, "added to squared gradients", gt=0)
    mu_dtype: MomentDtype = field("float32", "dtype in which the first moment is kept")

    def direction(self, axes: Any) -> optax.GradientTransformation:
        dims = tree_of_dims(axes)
        parts = [
            scale_by_factored_rms(
                dims, decay_exponent=self.decay_exponent, min_size=self.min_size, eps=self.eps
            )
        ]
        if self.update_clip is not None:
            parts.append(clip_by_rms(dims, self.update_clip))
        if self.scale_by_weights:
            parts.append(scale_by_param_rms(dims, self.weights_floor))
        if self.momentum:
            dtype = jnp.dtype(self.mu_dtype)
            parts.append(optax.ema(self.momentum, debias=False, accumulator_dtype=dtype))
        return optax.chain(*parts)


class FactoredState(NamedTuple):
    """Second moments. `row` and `col` keep the dims they are averaged over, with size 1.

    Where a parameter is not factored `row` is its whole second moment and `col` has size 1.
    """

    updates: jax.Array  # int32, how many were made
    row: Any
    col: Any


def scale_by_factored_rms(
    dims: Any, *, decay_exponent: float, min_size: int, eps: float
) -> optax.GradientTransformation:
    """Divides by the root of the second moment, kept as its row and column means.

    The moment of update t (from 1) decays by 1 - t^-decay_exponent. A matrix is factored where both
    sides have at least `min_size`; other parameters keep the whole moment.
    """

    def factored(p: Any, d: Dims) -> bool:
        sides = [math.prod(p.shape[i] for i in part) for part in (d.inputs, d.outputs)]
        return bool(d.inputs) and min(sides) >= min_size

    def init(params: Any) -> FactoredState:
        def row(p: Any, d: Dims) -> jax.Array:
            return jnp.zeros_like(_ones(p, d.outputs) if factored(p, d) else p)

        def col(p: Any, d: Dims) -> jax.Array:
            return jnp.zeros_like(_ones(p, d.inputs if factored(p, d) else tuple(range(p.ndim))))

        return FactoredState(
            jnp.zeros((), jnp.int32),
            jax.tree.map(row, params, dims),
            jax.tree.map(col, params, dims),
        )

    def update(grads: Any, state: FactoredState, params: Any = None) -> tuple[Any, FactoredState]:
        del params
        made = state.updates + 1
        keep = 1 - made.astype(jnp.float32) ** -decay_exponent
        ema = lambda old, new: keep * old + (1 - keep) * new  # noqa: E731

        def row(g: Any, d: Dims, old: Any) -> Any:
            g2 = g * g + eps
            return ema(old, jnp.mean(g2, d.outputs, keepdims=True) if factored(g, d) else g2)

        def col(g: Any, d: Dims, old: Any) -> Any:
            return (
                ema(old, jnp.mean(g * g + eps, d.inputs, keepdims=True)) if factored(g, d) else old
            )

        def scaled(g: Any, d: Dims, r: Any, c: Any) -> Any:
            if not factored(g, d):
                return g * jax.lax.rsqrt(r)
            # Two roots: the product of row and column would leave float32 for tiny gradients.
            mean = jnp.mean(r, d.inputs, keepdims=True)
            return g * jax.lax.rsqrt(r / mean) * jax.lax.rsqrt(c)

        rows = jax.tree.map(row, grads, dims, state.row)
        cols = jax.tree.map(col, grads, dims, state.col)
        return jax.tree.map(scaled, grads, dims, rows, cols), FactoredState(made, rows, cols)

    return optax.GradientTransformation(init, update)


def clip_by_rms(dims: Any, threshold: float) -> optax.GradientTransformation:
    """Scales each matrix's update down to a root mean square of `threshold` at most."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, d: u / jnp.maximum(1, rms(u, d) / threshold), updates, dims
        )
    )


def scale_by_param_rms(dims: Any, floor: float) -> optax.GradientTransformation:
    """Scales each matrix's update by the matrix's own root mean square, at least `floor`."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p, d: u * jnp.maximum(rms(p, d), floor), updates, params, dims
        )
    )


def rms(x: jax.Array, dims: Dims) -> jax.Array:
    """The root mean square of each matrix of a stack; the dims it is taken over keep size 1."""
    return jnp.sqrt(jnp.mean(x * x, dims.matrix, keepdims=True))


def _ones(p: Any, over: tuple[int, ...]) -> Any:
    """The abstract array of `p` averaged over the dims `over`, which keep size 1."""
    shape = tuple(1 if i in over else n for i, n in enumerate(p.shape))
    return jax.ShapeDtypeStruct(shape, p.dtype)
