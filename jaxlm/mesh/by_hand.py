"""Functions that run on each device's part of an array (`shard_map`), with explicit collectives.

    count = on_each_device(lambda x: sum_parts(x.sum(), "batch"), [("batch",)], ())

They are for the few places where XLA's partitioner would move too much; everything else is a
constraint of `inside`, which the partitioner follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import AxisType, PartitionSpec

from jaxlm.mesh.inside import fitting, is_split, num_parts
from jaxlm.mesh.rules import LENGTHS, spec_of

LANES = 128  # columns of a TPU's tile


def on_each_device(
    function: Callable[..., Any],
    inputs: Sequence[Sequence[str | None]],
    outputs: Any,
) -> Callable[..., Any]:
    """`function` applied to each device's part of the arrays, which have these logical axes.

    `outputs`: the logical axes of the result, or a list of them. Inside the function, `gather_part`
    and `sum_parts` communicate between devices. Without a mesh the function is called as it is.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function

    def run(*arrays: jax.Array) -> Any:
        fits = [fitting(axes, x.shape) for axes, x in zip(inputs, arrays, strict=True)]
        found = {axis for axes in fits for axis in axes if axis in LENGTHS}
        assert len(found) < 2, "inputs whose lengths are split in two ways"
        length = next(iter(found), None)

        def spec(axes: Sequence[str | None]) -> PartitionSpec:
            return spec_of([length if axis in LENGTHS else axis for axis in axes])

        several = isinstance(outputs, list)
        return jax.shard_map(
            function,
            in_specs=tuple(spec_of(axes) for axes in fits),
            out_specs=tuple(map(spec, outputs)) if several else spec(outputs),
            axis_names=_free_axes(),
            check_vma=False,
        )(*arrays)

    return run


def _free_axes() -> set[str]:
    """The axes of the current mesh that are not manual in an enclosing `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name for name, kind in types if kind == AxisType.Auto}


def gather_part(weight: jax.Array, axes: Sequence[str], dtype: Any) -> jax.Array:
    """`gather_weight` within `on_each_device`; its gradient goes to its parts by reduce-scatter."""
    weight = weight.astype(dtype)
    if not is_split("fsdp"):
        return weight
    for dim, part in enumerate(spec_of(axes)):
        if part == "fsdp":
            weight = _gather_dim(dim, weight)
    return weight


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather_dim(dim: int, weight: jax.Array) -> jax.Array:
    return jax.lax.all_gather(weight, "fsdp", axis=dim, tiled=True)


def _scatter_dim(dim: int, _: None, grad: jax.Array) -> tuple[jax.Array]:
    """Puts whole tiles of columns first; else libtpu sums all of them on every device."""
    columns = grad.shape[dim] // num_parts("fsdp")
    if dim < grad.ndim - 1 or columns % LANES:
        return (jax.lax.psum_scatter(grad, "fsdp", scatter_dimension=dim, tiled=True),)
    parts = jnp.moveaxis(grad.reshape(*grad.shape[:-1], -1, columns), -2, 0)
    return (jax.lax.psum_scatter(parts, "fsdp", tiled=False),)


_gather_dim.defvjp(lambda dim, weight: (_gather_dim(dim, weight), None), _scatter_dim)


def sum_parts(
    x: jax.Array, axis: str, *, by: Callable = jax.lax.psum, without: Sequence[str] = ()
) -> jax.Array:
    """The sum, within `on_each_device`, over the devices that a logical axis is split over, except
    along the mesh axes `without`.
    """
    names = tuple(name for name in _split_over(axis) if name not in without)
    return by(x, names) if names else x


def all_rows(x: jax.Array) -> jax.Array:
    """[B, ...] of each device along fsdp -> [n B, ...] of all n, within `on_each_device`."""
    return jax.lax.all_gather(x, "fsdp", axis=0, tiled=True)


def own_rows(x: jax.Array) -> jax.Array:
    """This device's part [B, ...] of `all_rows`."""
    size = x.shape[0] // num_parts("fsdp")
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index("fsdp") * size, size)


def sum_own_rows(x: jax.Array) -> jax.Array:
    """[n B, ...] -> [B, ...]: the sum over fsdp, of which each device has its rows."""
    # Parts get a dim of their own, as in `sum_split`.
    x = x.reshape(num_parts("fsdp"), -1, *x.shape[1:])
    return jax.lax.psum_scatter(x, "fsdp", scatter_dimension=0, tiled=False)


def columns_for_rows(x: jax.Array) -> jax.Array:
    """[D / n, V] -> [D, V / n]: fsdp splits the columns of a matrix instead of its rows."""
    return jax.lax.all_to_all(_row_major(x), "fsdp", split_axis=1, concat_axis=0, tiled=True)


def rows_for_columns(x: jax.Array) -> jax.Array:
    """[D, V / n] -> [D / n, V]: the inverse of `columns_for_rows`."""
    return _row_major(jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=1, tiled=True))


def _row_major(x: jax.Array) -> jax.Array:
    """`x`, laid out by rows: libtpu would lay out a matrix that is exchanged by columns, and copy a
    float32 parameter and its moments to the same layout.
    """
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def sum_split(x: jax.Array, axes: Sequence[str], *, dim: int, by: str) -> jax.Array:
    """The sum over the devices that logical axes are split over, of which each has its part.

    `by`: the logical axis of the dim in the result. A mesh axis that splits both is
    reduce-scattered, which sends half of an all-reduce; the other axes are all-reduced.
    """
    names = [name for axis in axes for name in _split_over(axis)]
    for name in _split_over(by):
        assert name in names, f"{by} is split over {name}, along which nothing is summed"
        # Parts get a dim of their own: libtpu all-reduces a part that is not whole tiles.
        x = x.reshape(*x.shape[:dim], num_parts(name), -1, *x.shape[dim + 1 :])
        x = jax.lax.psum_scatter(x, name, scatter_dimension=dim, tiled=False)
        names.remove(name)
    return jax.lax.psum(x, tuple(names)) if names else x


def part_index(axis: str) -> jax.Array | int:
    """The number of the part of a logical axis that this device has, within `on_each_device`."""
    names = _split_over(axis)
    return jax.lax.axis_index(names) if names else 0


def _split_over(axis: str) -> tuple[str, ...]:
    """The mesh axes of more than one device that a logical axis is split over."""
    names = spec_of((axis,))[0]
    return tuple(
        name for name in ((names,) if isinstance(names, str) else names or ()) if is_split(name)
    )


def on_each_stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` on each stage of a pipeline; all other axes are left to the partitioner.

    It takes (parameters [L, ...], x, (xs [R, S, ...], keys [R, S, ...], rows, shared)) with its
    part of L and S, and gives (x [S, ...], found [R, S, ...]).
    """
    first, second = PartitionSpec("stage"), PartitionSpec(None, "stage")
    whole = PartitionSpec()
    return jax.shard_map(
        function,
        in_specs=(first, whole, (second, second, whole, whole)),
        out_specs=(first, second),
        axis_names={"stage"},
        check_vma=False,
    )


def from_first_stage(x: jax.Array) -> jax.Array:  # [S, M, B, T, ...] -> [M, B, T, ...]
    """The array of stage 0, split by length over all stages if they divide it.

    The stages then share the work after the pipeline, above all the head.
    """
    rest = (None,) * (x.ndim - 4)
    before = fitting((None, "batch", "length", *rest), x.shape[1:])
    after = fitting((None, "batch", "head_length", *rest), x.shape[1:])

    def one(x: jax.Array) -> jax.Array:
        x = jnp.where(jax.lax.axis_index("stage") == 0, x[0], jnp.zeros((), x.dtype))
        if "head_length" in after:
            return jax.lax.psum_scatter(x, "stage", scatter_dimension=2, tiled=True)
        return jax.lax.psum(x, "stage")

    split = PartitionSpec("stage", *spec_of(before))
    return jax.shard_map(one, in_specs=split, out_specs=spec_of(after), check_vma=False)(x)
