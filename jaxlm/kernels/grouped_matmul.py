"""Grouped matmul: rows sorted by group, each multiplied with its group's matrix (for experts).

    y = grouped_matmul(x, kernels, group_sizes)     # [M, D], [E, D, F], [E] -> [M, F]

The first group_sizes[0] rows are multiplied with kernels[0], the next with kernels[1], and so on;
rows after the last group become 0. A row's result does not depend on its place in its group or on
the other rows.

Which form is faster depends on the machine. `lax.ragged_dot` is one kernel on accelerators; on CPUs
XLA computes E masked products. "blocks" cuts the groups into blocks of equal size, of which a
group's last one is not full, and multiplies block by block: M + E * size / 2 rows on average.
Values and gradients took, on two CPU cores, in ms:

    M, D, F, E            reference   ragged_dot   blocks
    64, 36, 24, 8             0.25         0.27     0.22
    512, 64, 128, 4            2.5          3.9      1.2
    1024, 128, 256, 8           27           15      6.7
    4096, 256, 512, 8          188          271       47
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.kernels.registry import Kernel

MAX_BLOCK = 64  # rows: best of 32, 64, 128 on CPU

grouped_matmul_kernels = Kernel("grouped matmul")


@jax.named_scope("experts")
def grouped_matmul(
    x: jax.Array,  # [M, D], sorted by group
    kernels: jax.Array,  # [E, D, F]
    group_sizes: jax.Array,  # [E] int, of sum at most M
    *,
    impl: str = "auto",
    fill: bool = True,
) -> jax.Array:  # [M, F] in x's dtype
    """Each row times the matrix of its group; rows without a group are 0.

    Without `fill`, rows without a group may have any value, in `x` and in the result.
    """
    return grouped_matmul_kernels.pick(impl)(x, kernels, group_sizes, fill)


@grouped_matmul_kernels.register("reference")
def _reference(
    x: jax.Array, kernels: jax.Array, group_sizes: jax.Array, fill: bool = True
) -> jax.Array:
    """All rows times every matrix, then the selection of each row's group."""
    group = _group_of(group_sizes, len(x))
    x = x if fill else jnp.where((group < len(kernels))[:, None], x, 0)

    def add(y: jax.Array, item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        index, kernel = item
        return jnp.where((group == index)[:, None], x @ kernel, y), None

    y = jnp.zeros((len(x), kernels.shape[2]), x.dtype)
    return jax.lax.scan(add, y, (jnp.arange(len(kernels)), kernels))[0]


@grouped_matmul_kernels.register("ragged_dot", auto_on=("gpu", "tpu"))
def ragged_dot(
    x: jax.Array, kernels: jax.Array, group_sizes: jax.Array, fill: bool = True
) -> jax.Array:
    # The kernel may read rows after the groups, and may leave any value there.
    real = (jnp.arange(len(x)) < group_sizes.sum())[:, None]
    x = x if fill else jnp.where(real, x, 0)
    return jnp.where(real, jax.lax.ragged_dot(x, kernels, group_sizes.astype(jnp.int32)), 0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _blocks(
    x: jax.Array, kernels: jax.Array, group_sizes: jax.Array, fill: bool = True
) -> jax.Array:
    plan = _plan(group_sizes, len(x), len(kernels))

    def one(_: None, block: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        rows, group = block
        return None, rows @ kernels[group]

    return _leave(jax.lax.scan(one, None, (_enter(x, plan), plan.group))[1], plan)


def _blocks_forward(x, kernels, group_sizes, fill):  # type: ignore[no-untyped-def]
    return _blocks(x, kernels, group_sizes), (x, kernels, group_sizes)


def _blocks_backward(fill, residuals, gradient):  # type: ignore[no-untyped-def]
    """dx = g W^T by the same blocks; dW sums x^T g over the blocks of each group, in place."""
    x, kernels, group_sizes = residuals
    plan = _plan(group_sizes, len(x), len(kernels))

    def one(total: jax.Array, block: tuple) -> tuple[jax.Array, jax.Array]:
        rows, gradient, group = block
        own = jax.lax.dot_general(
            rows, gradient, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        return total.at[group].add(own), gradient @ kernels[group].T

    zeros = jnp.zeros(kernels.shape, jnp.float32)
    blocks = (_enter(x, plan), _enter(gradient, plan), plan.group)
    total, back = jax.lax.scan(one, zeros, blocks)
    return _leave(back, plan), total.astype(kernels.dtype), None


_blocks.defvjp(_blocks_forward, _blocks_backward)

grouped_matmul_kernels.register("blocks", auto_on=("cpu",))(_blocks)


class Blocks(NamedTuple):
    """Blocks of rows, each of one group."""

    group: jax.Array  # [blocks] the group of each block
    source: jax.Array  # [blocks, size] the row at each place; M for an empty place
    place: jax.Array  # [M] the place of each row in the concatenated blocks
    real: jax.Array  # [M] whether the row has a group


def _plan(group_sizes: jax.Array, num_rows: int, num_groups: int) -> Blocks:
    size = min(MAX_BLOCK, 8 * -(-num_rows // (8 * num_groups)))
    counts = -(-group_sizes // size)  # blocks of each group
    total = -(-num_rows // size) + num_groups  # at most, and then some are empty
    first_row, first_block = (jnp.cumsum(n) - n for n in (group_sizes, counts))
    group = jnp.minimum(_group_of(counts, total), num_groups - 1)
    start = first_row[group] + (jnp.arange(total) - first_block[group]) * size
    rows = start[:, None] + jnp.arange(size)
    inside = rows < (first_row + group_sizes)[group][:, None]
    own = _group_of(group_sizes, num_rows)
    clipped = jnp.minimum(own, num_groups - 1)
    place = first_block[clipped] * size + jnp.arange(num_rows) - first_row[clipped]
    return Blocks(group, jnp.where(inside, rows, num_rows), place, own < num_groups)


def _enter(x: jax.Array, plan: Blocks) -> jax.Array:
    """[M, D] -> [blocks, size, D], 0 where a block is not full."""
    return jnp.take(x, plan.source, axis=0, mode="fill", fill_value=0)


def _leave(blocks: jax.Array, plan: Blocks) -> jax.Array:
    """[blocks, size, F] -> [M, F]"""
    flat = blocks.reshape(-1, blocks.shape[-1])
    return jnp.where(plan.real[:, None], jnp.take(flat, plan.place, axis=0, mode="clip"), 0)


def _group_of(group_sizes: jax.Array, num_rows: int) -> jax.Array:
    """The group of each row [M]; E for rows after the last group."""
    rows = jnp.arange(num_rows)
    return jnp.searchsorted(jnp.cumsum(group_sizes), rows, side="right", method="compare_all")
