"""Sharding constraints on a program's arrays, and questions about the mesh, while it is traced.

    with jax.set_mesh(mesh):
        x = shard(x, "batch", "length", "act_embed")

XLA's partitioner does the rest; functions of each device's own part are in `by_hand`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxlm.mesh.rules import BATCH_AXES, LENGTHS, RULES, spec_of


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an activation to the sharding of its logical axes; without a mesh, `x` itself."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec_of(fitting(axes, x.shape)))


def fitting(axes: Sequence[str | None], shape: Sequence[int]) -> list[str | None]:
    """The axes, with None for a length that the mesh does not divide, such as one new token."""

    def one(axis: str | None, size: int) -> str | None:
        if axis not in LENGTHS or size % math.prod(map(num_parts, RULES[axis] or ())) == 0:
            return axis
        return one("length", size) if axis != "length" else None

    return [one(axis, size) for axis, size in zip(axes, shape, strict=True)]


def gather_weight(weight: jax.Array, axes: Sequence[str], dtype: Any) -> jax.Array:
    """A parameter in the compute dtype, gathered over fsdp, right before its matmul.

    The cast comes before the all-gather, so the network carries the narrow dtype. The constraint
    keeps the partitioner from moving activations instead of weights. The gradient of each layer is
    reduce-scattered to the sharding of the parameter.
    """
    weight = weight.astype(dtype)
    if jax.sharding.get_abstract_mesh().empty:
        return weight
    return _gather(spec_of(axes), spec_of(axes, without=("fsdp",)), weight)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(split: PartitionSpec, whole: PartitionSpec, weight: jax.Array) -> jax.Array:
    """The weight with the sharding `whole`; its gradient with the sharding `split`.

    The transpose of `with_sharding_constraint` constrains the gradient to the gathered sharding.
    Without this function, a scan over layers would keep the whole gradients of all layers on every
    device, and an all-reduce would take the place of a reduce-scatter.
    """
    return jax.lax.with_sharding_constraint(weight, whole)


def _to_parts(
    split: PartitionSpec, whole: PartitionSpec, _: None, grad: jax.Array
) -> tuple[jax.Array]:
    """Moves the split dim to the front before the sum: along another dim, such as the last one of
    an output projection, libtpu all-reduces the whole array.
    """
    moved = (d for d, (part, all_of) in enumerate(zip(split, whole, strict=True)) if part != all_of)
    dim = next(moved, None)
    if dim is None:  # fsdp splits none of it
        return (jax.lax.with_sharding_constraint(grad, split),)
    parts = PartitionSpec(split[dim], *split[:dim], *split[dim + 1 :])
    grad = jax.lax.with_sharding_constraint(jnp.moveaxis(grad, dim, 0), parts)
    return (jnp.moveaxis(grad, 0, dim),)


_gather.defvjp(lambda split, whole, weight: (_gather(split, whole, weight), None), _to_parts)


def columns_of(
    shape: Sequence[int], *, rows: int, axes: Sequence[str | None] = ("batch", "length")
) -> PartitionSpec | None:
    """The sharding by columns of rows [B, T, D] that are looked up in a table which fsdp splits by
    columns; None where the gradient of the whole table is to be summed instead.

    By columns each device looks up its part of them for the tokens of all devices along fsdp, and
    has their gradient; `from_columns` sends each device its own tokens. This sends less than the
    table and the sum of its gradient if fewer rows are looked up than the `rows` that a device
    holds. Rows are counted along all other axes together, as the partitioner does: if they are
    more, it would send their gradients by columns and back. Rows that `expert` splits as well would
    have to be moved first, which sends more. `axes`: the logical axes of the first two dims.
    """
    if not is_split("fsdp") or is_split("expert") or len(shape) != 3:
        return None
    if shape[0] * shape[1] // num_parts("fsdp") > rows // num_parts("tensor"):
        return None
    fits = fitting(axes, shape[:2])
    others = ["data" if axis == "batch" else spec_of([axis])[0] for axis in fits]
    return PartitionSpec(*others, "fsdp")


def from_columns(
    x: jax.Array, columns: PartitionSpec, *, axes: Sequence[str | None] = ("batch", "length")
) -> jax.Array:
    """Rows [B, T, D] that were looked up by `columns`, with all columns of each device's tokens.

    Their gradient goes the other way.
    """
    x = jax.lax.with_sharding_constraint(x, columns)
    return shard(x, *axes, None)


def gradient_by_columns(x: jax.Array, columns: PartitionSpec) -> jax.Array:
    """`x`, rows [B, T, D] of a gathered table; their gradient goes by `columns`."""
    return _gradient_by_columns(columns, x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gradient_by_columns(columns: PartitionSpec, x: jax.Array) -> jax.Array:
    return x


_gradient_by_columns.defvjp(
    lambda columns, x: (x, None),
    lambda columns, _, grad: (jax.lax.with_sharding_constraint(grad, columns),),
)


def gather_length(x: jax.Array) -> jax.Array:
    """An array [B, T, ...], gathered along the length if the context axis splits it."""
    if not is_split("context"):
        return x
    rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 2)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, None, *rest))


def splits_length(length: int) -> bool:
    """Whether the current mesh splits rows of so many tokens along them."""
    return is_split("context") and fitting(["length"], [length]) != [None]


def num_parts(axis: str) -> int:
    """The number of devices of the current mesh on this axis."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def is_split(axis: str) -> bool:
    """Whether the current mesh has more than one device on this axis."""
    return num_parts(axis) > 1


def cut_rows(x: jax.Array, count: int, *, dim: int = 0) -> jax.Array:
    """[..., B, ...] -> [..., count, B / count, ...]: micro-batch i has the rows i, i + count, ...

    Each device thus cuts its own rows, and none are moved.
    """
    parts = x.reshape(*x.shape[:dim], x.shape[dim] // count, count, *x.shape[dim + 1 :])
    return jnp.moveaxis(parts, dim + 1, dim)


def join_rows(x: jax.Array, *, dim: int = 0) -> jax.Array:
    """The rows of `cut_rows` as they were."""
    x = jnp.moveaxis(x, dim, dim + 1)
    return x.reshape(*x.shape[:dim], -1, *x.shape[dim + 2 :])
