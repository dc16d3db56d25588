"""Grouped matmul on TPUs: the three products of a training step.

Registered as "megablox" under the signature of `jaxlm.kernels.grouped_matmul.grouped_matmul`. XLA
has a kernel for y = x W and dx = g W^T, which `lax.ragged_dot` calls; it computes the gradients of
the matrices, x^T g, as E masked products of all rows. For those this module calls jax's megablox
kernel (Gale et al. 2022, arXiv:2211.15841), which multiplies each row once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.kernels.grouped_matmul import grouped_matmul_kernels, ragged_dot

ROWS, COLUMNS = 512, 1024  # largest block of a product
LANES = 128  # lanes of a TPU's vector unit: the smallest block
INTERPRET = False  # for tests: runs the kernel's program on a CPU, slowly


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _megablox(
    x: jax.Array, kernels: jax.Array, group_sizes: jax.Array, fill: bool = True
) -> jax.Array:
    return _product(x, kernels, group_sizes, fill)


def _forward(
    x: jax.Array, kernels: jax.Array, group_sizes: jax.Array, fill: bool
) -> tuple[jax.Array, Any]:
    return _megablox(x, kernels, group_sizes, fill), (x, kernels, group_sizes)


def _backward(fill: bool, saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x, kernels, group_sizes = saved
    dx = _product(gradient, jnp.swapaxes(kernels, 1, 2), group_sizes, fill)
    own = kernel_gradients(x, gradient, group_sizes.astype(jnp.int32))
    return dx, own.astype(kernels.dtype), None


def _product(x: jax.Array, kernels: jax.Array, group_sizes: jax.Array, fill: bool) -> jax.Array:
    """XLA's own kernel, which skips blocks without a group; with `fill` such rows become 0."""
    if fill:
        return ragged_dot(x, kernels, group_sizes)
    return jax.lax.ragged_dot(x, kernels, group_sizes.astype(jnp.int32))


_megablox.defvjp(_forward, _backward)

grouped_matmul_kernels.register("megablox", auto_on=("tpu",))(_megablox)


def kernel_gradients(x: jax.Array, gradient: jax.Array, group_sizes: jax.Array) -> jax.Array:
    """[M, D], [M, F], [E] -> [E, D, F]: x^T g over the rows of each group; 0 for an empty one."""
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    rows = min(ROWS, -(-len(x) // LANES) * LANES)
    fill = ((0, -len(x) % rows), (0, 0))  # rows without a group
    x, gradient = jnp.pad(x, fill), jnp.pad(gradient, fill)
    blocks = (rows, min(COLUMNS, x.shape[1]), min(COLUMNS, gradient.shape[1]))
    return tgmm(x.T, gradient, group_sizes, x.dtype, blocks, interpret=INTERPRET)
