"""Optax transformations that know which dims of a parameter make a matrix: Muon and Adafactor.

Parameters of scanned layers and of experts are stacks, [L, E, ...], of independent matrices, and an
attention kernel [D, N, H] is a matrix of D x NH. `Dims` (see param_groups.py) says which dims are
which, and every statistic is per matrix: a stack behaves as if each matrix were a parameter.
Stacked dims are neither moved nor merged, so a stack that is split over devices stays split.
Optax's own Adafactor takes one RMS over a whole stack and factors its two largest dims, and its
Muon merges the stacked dims: hence this module.

Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon; scale by RMS arXiv:2502.16982):

    M <- beta M + (1 - beta) G,   U = orthogonalize((1 - beta) G + beta M)

Adafactor (arXiv:1804.04235), with R and C the row and column means of G^2, averaged over time:

    V = R C / mean(R),   U = G / sqrt(V)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxlm.optim.param_groups import Dims

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steepest at 0 while it still converges


class MuonState(NamedTuple):
    momentum: Any  # like the parameters


class FactoredState(NamedTuple):
    """Second moments. `row` and `col` keep the dims they are averaged over, with size 1.

    Where a parameter is not factored `row` is its whole second moment and `col` has size 1.
    """

    updates: jax.Array  # int32, how many were made
    row: Any
    col: Any


def scale_by_muon(
    dims: Any, *, beta: float, nesterov: bool, steps: int, rms: float | None, dtype: Any
) -> optax.GradientTransformation:
    """Momentum, orthogonalised matrix by matrix.

    `dims` is a tree of `Dims` like the parameters. An orthogonal matrix is scaled by
    rms * sqrt(max(inputs, outputs)), so that its root mean square is about `rms` whatever the
    shape; where `rms` is None by sqrt(max(1, outputs / inputs)), as in Jordan's own version.
    """

    def init(params: Any) -> MuonState:
        return MuonState(jax.tree.map(lambda p: jnp.zeros_like(p, dtype=dtype), params))

    def update(grads: Any, state: MuonState, params: Any = None) -> tuple[Any, MuonState]:
        del params
        mix = lambda m, g: beta * m.astype(g.dtype) + (1 - beta) * g  # noqa: E731
        momentum = jax.tree.map(mix, state.momentum, grads)
        ahead = jax.tree.map(mix, momentum, grads) if nesterov else momentum
        updates = jax.tree.map(lambda u, d: _muon_update(u, d, steps, rms), ahead, dims)
        return updates, MuonState(jax.tree.map(lambda m: m.astype(dtype), momentum))

    return optax.GradientTransformation(init, update)


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
