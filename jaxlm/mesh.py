"""The device mesh, the one table of logical-axis rules, and global arrays.

Arrays name their axes by what they mean ("embed", "heads", "batch"); the table `RULES` says on
which mesh axes each meaning is split. A model never names a mesh axis, so one model runs on any
mesh:

    mesh = MeshConfig(data=2, fsdp=-1).build()
    with jax.set_mesh(mesh):
        x = shard(x, "batch", "length", "act_embed")
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxlm.config import Config, UserError, field
from jaxlm.tree import map_with_path

AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")  # slowest network first
LENGTHS = ("length", "stream_length", "head_length")  # logical axes that are a row's length
BATCH_AXES = ("data", "fsdp", "expert")  # a batch is split over all of these

# Logical axis -> mesh axes. `None` is replicated by decision; an axis not in the table is an error.
RULES: dict[str, str | tuple[str, ...] | None] = {
    # parameters
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "latent": "fsdp",
    "mlp": "tensor",
    "gates": "tensor",
    "hidden": "fsdp",
    "norm": None,
    "pos": None,
    "labels": None,
    "buckets": None,
    "layers": "stage",
    "experts": "expert",
    # activations
    "batch": BATCH_AXES,
    "length": ("context",),
    "stream_length": ("context", "tensor"),  # between the products that heads and ffns split
    "head_length": ("context", "stage"),  # behind a pipeline its stages share what is left to do
    "act_embed": None,
    "act_latent": None,
    "act_heads": "tensor",
    "act_kv_heads": "tensor",
    "act_mlp": "tensor",
    "act_gates": "tensor",
    "act_vocab": "tensor",
    "act_hidden": None,
}


@dataclass(frozen=True, kw_only=True)
class MeshConfig(Config):
    """How many devices stand on each axis of the mesh; one of them may be -1: all that remain."""

    data: int = field(-1, "replicas of the model, each with its part of the batch", ge=-1)
    fsdp: int = field(1, "parts that parameters, optimizer state and batch are split into", ge=-1)
    tensor: int = field(1, "parts that heads, ffn and vocabulary are split into", ge=-1)
    context: int = field(1, "parts that the sequence is split into", ge=-1)
    expert: int = field(1, "parts that the experts and the batch are split into", ge=-1)
    stage: int = field(1, "parts that the layers are split into, as stages of a pipeline", ge=-1)
    stage_repeats: int = field(
        1, "times that a micro-batch passes all stages; more than 1: fewer idle turns", ge=1
    )
    zero: Literal[1, 3] = field(
        3, "what fsdp splits: 3: all of it; 1: the optimizer state alone, parameters stay whole"
    )
    dcn: Literal["data", "fsdp", "stage"] = field(
        "data", "the axis whose parts stand in different slices, where TPUs have several"
    )
    num_devices: int | None = field(None, "how many devices to use; null: all there are", ge=1)
    topology: str | None = field(
        None, "the pod that this is meant for, which `jaxlm plan` takes: v6e:16x16, 2*v5p:4x4x8"
    )

    def validate(self) -> None:
        sizes = {axis: getattr(self, axis) for axis in AXES}
        if 0 in sizes.values():
            raise UserError(
                f"{_axis_of(sizes, 0)}: 0 devices make no mesh; set it to 1 or more, or -1"
            )
        rest = [axis for axis, size in sizes.items() if size == -1]
        if len(rest) > 1:
            raise UserError(f"{' and '.join(rest)} are -1; let only one take the remaining devices")
        if sizes["stage"] == 1 and self.stage_repeats > 1:
            raise UserError(
                "stage_repeats: there is one stage; set stage to 2 or more, or leave it"
            )

    def shape(self, num_devices: int) -> dict[str, int]:
        """Devices on each axis when there are `num_devices` in all, -1 filled in."""
        if self.num_devices is not None:
            if self.num_devices > num_devices:
                raise UserError(
                    f"mesh.num_devices: {self.num_devices} asked for but {num_devices} exist; "
                    f"set it to at most {num_devices}"
                )
            num_devices = self.num_devices
        sizes = {axis: getattr(self, axis) for axis in AXES}
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if -1 in sizes.values():
            if num_devices % fixed:
                raise UserError(
                    f"mesh: {num_devices} devices cannot be split by {_show(sizes)}; "
                    f"make the fixed axes' product ({fixed}) divide {num_devices}"
                )
            sizes[_axis_of(sizes, -1)] = num_devices // fixed
        elif fixed != num_devices:
            mend = (
                f"set mesh.num_devices={fixed} or let one axis be -1"
                if fixed < num_devices
                else "use smaller axes, or start with more devices"
            )
            raise UserError(
                f"mesh: {_show(sizes)} takes {fixed} devices but {num_devices} exist; {mend}"
            )
        return sizes

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh over `devices` (all there are, over all processes, by default)."""
        devices = list(jax.devices() if devices is None else devices)
        sizes = self.shape(len(devices))
        left_out = {d.process_index for d in devices}
        devices = devices[: math.prod(sizes.values())]
        left_out -= {d.process_index for d in devices}
        if left_out:
            raise UserError(
                f"mesh.num_devices: {len(devices)} devices leave process {min(left_out)} none;"
                " use more devices, or start fewer processes"
            )
        types = (AxisType.Auto,) * len(AXES)
        slices = Counter(getattr(device, "slice_index", 0) for device in devices)
        if len(slices) > 1 and devices[0].platform == "tpu":
            if len(set(slices.values())) > 1:
                raise UserError(
                    f"mesh.num_devices: {len(devices)} devices are not as many of each slice; "
                    f"use a multiple of {len(slices)} times those of one"
                )
            return Mesh(self._over_slices(sizes, len(slices), devices), AXES, axis_types=types)
        # an axis may take a part of a dim of the torus, such as 32 chips of 4 x 4 x 4
        how = {"allow_split_physical_axes": True}
        placed = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, **how)
        return Mesh(placed, AXES, axis_types=types)

    def _over_slices(
        self, sizes: Mapping[str, int], slices: int, devices: Sequence[Any]
    ) -> np.ndarray:
        """Devices in the order of the axes; only `dcn` crosses the slow network between slices."""
        if sizes[self.dcn] % slices:
            raise UserError(
                f"mesh.{self.dcn}: {sizes[self.dcn]} parts cannot stand in {slices} slices; "
                f"make it a multiple of {slices}"
            )
        between = {axis: slices if axis == self.dcn else 1 for axis in sizes}
        within = tuple(size // between[axis] for axis, size in sizes.items())
        return mesh_utils.create_hybrid_device_mesh(
            within, tuple(between.values()), devices, allow_split_physical_axes=True
        )


def _axis_of(sizes: Mapping[str, int], size: int) -> str:
    return next(axis for axis, s in sizes.items() if s == size)


def _show(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != 1) or "1 device"


# ------------------------------------------------------------------------------------ logical axes


def spec_of(axes: Sequence[str | None], *, without: Sequence[str] = ()) -> PartitionSpec:
    """The partition of an array with these logical axes; mesh axes in `without` are left out."""
    parts: list[Any] = []
    for axis in axes:
        if axis is not None and axis not in RULES:
            raise UserError(
                f"logical axis {axis!r}: not in the rule table; use one of {', '.join(RULES)}"
            )
        rule = RULES[axis] if axis is not None else None
        names = (rule,) if isinstance(rule, str) else (rule or ())
        names = tuple(name for name in names if name not in without)
        parts.append(names[0] if len(names) == 1 else (names or None))
    return PartitionSpec(*parts)


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an activation to the sharding of its logical axes; without a mesh, `x` itself."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec_of(fitting(axes, x.shape)))


def fitting(axes: Sequence[str | None], shape: Sequence[int]) -> list[str | None]:
    """The axes, but for a length that the mesh does not divide, such as a token being written."""

    def one(axis: str | None, size: int) -> str | None:
        if axis not in LENGTHS or size % math.prod(map(num_parts, RULES[axis] or ())) == 0:
            return axis
        return one("length", size) if axis != "length" else None

    return [one(axis, size) for axis, size in zip(axes, shape, strict=True)]


def gather_length(x: jax.Array) -> jax.Array:
    """An array [B, T, ...], whole along the length that context splits, else as it is."""
    if not is_split("context"):
        return x
    rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 2)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, None, *rest))


def splits_length(length: int) -> bool:
    """Whether the current mesh splits rows of so many tokens along them."""
    return is_split("context") and fitting(["length"], [length]) != [None]


def num_parts(axis: str) -> int:
    """How many devices the current mesh has on this axis."""
    return jax.sharding.get_abstract_mesh().shape.get(axis, 1)


def is_split(axis: str) -> bool:
    """Whether the current mesh has more than one device on this axis."""
    return num_parts(axis) > 1


def cut_rows(x: jax.Array, count: int, *, dim: int = 0) -> jax.Array:
    """[..., B, ...] -> [..., count, B / count, ...]: micro-batch i has the rows i, i + count, ...

    So each device cuts its own rows, and none move.
    """
    parts = x.reshape(*x.shape[:dim], x.shape[dim] // count, count, *x.shape[dim + 1 :])
    return jnp.moveaxis(parts, dim + 1, dim)


def join_rows(x: jax.Array, *, dim: int = 0) -> jax.Array:
    """The rows of `cut_rows` as they were."""
    x = jnp.moveaxis(x, dim, dim + 1)
    return x.reshape(*x.shape[:dim], -1, *x.shape[dim + 2 :])


def gather_weight(weight: jax.Array, axes: Sequence[str], dtype: Any) -> jax.Array:
    """A parameter in the compute dtype, gathered over fsdp, right before its matmul.

    The cast stands before the gather, so the network carries the narrow dtype; stating the gathered
    sharding keeps the partitioner from moving activations instead of weights. The gradient is split
    like the parameter where it is made, layer by layer.
    """
    weight = weight.astype(dtype)
    if jax.sharding.get_abstract_mesh().empty:
        return weight
    return _gather(spec_of(axes), spec_of(axes, without=("fsdp",)), weight)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(split: PartitionSpec, whole: PartitionSpec, weight: jax.Array) -> jax.Array:
    """The weight as `whole`; its gradient as `split`.

    The transpose of a gather as `with_sharding_constraint` states it is one more gather: without
    this, a scan over layers would pile up the whole gradients of all of them on every device, and
    devices would sum all of a gradient to keep a part of it.
    """
    return jax.lax.with_sharding_constraint(weight, whole)


_gather.defvjp(
    lambda split, whole, weight: (_gather(split, whole, weight), None),
    lambda split, whole, _, grad: (jax.lax.with_sharding_constraint(grad, split),),
)


def on_each_device(
    function: Callable[..., Any],
    inputs: Sequence[Sequence[str | None]],
    outputs: Any,
) -> Callable[..., Any]:
    """`function` of the parts of arrays that a device holds, by their logical axes.

    `outputs`: the logical axes of what it gives, or a list of such. For what the partitioner would
    do badly, such as a sort of tokens that need not leave their device. Within, `gather_part` and
    `sum_parts` are what devices say to one another. Without a mesh, the function itself.
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
    """The axes of the current mesh that no function around this one has taken for itself."""
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name for name, kind in types if kind == AxisType.Auto}


def on_each_stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a stage of a pipeline sees it; all other axes are left to the partitioner.

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
    """What stage 0 has, on all of them: each has a part of the length, where they divide it.

    What follows, a head above all, is then shared by the stages.
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


def gather_part(weight: jax.Array, axes: Sequence[str], dtype: Any) -> jax.Array:
    """`gather_weight` within `on_each_device`; the gradient's transpose is a reduce-scatter."""
    weight = weight.astype(dtype)
    if not is_split("fsdp"):
        return weight
    for dim, part in enumerate(spec_of(axes)):
        if part == "fsdp":
            weight = jax.lax.all_gather(weight, "fsdp", axis=dim, tiled=True)
    return weight


def sum_parts(x: jax.Array, axis: str, *, by: Callable = jax.lax.psum) -> jax.Array:
    """The sum, within `on_each_device`, over the devices that a logical axis is split over."""
    names = _split_over(axis)
    return by(x, names) if names else x


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


def param_shardings(abstract: Any, axes: Any, mesh: Mesh, *, without: Sequence[str] = ()) -> Any:
    """A NamedSharding for each parameter of a nested dict, from its logical axes.

    Mesh axes in `without` split none of them, though they have to divide them all the same.
    Raises `UserError` that names the parameter, the axis and sizes that divide, where one does not.
    """

    def one(path: str, leaf: Any, names: Sequence[str]) -> NamedSharding:
        spec = spec_of(names)
        for dim, (size, part) in enumerate(zip(leaf.shape, spec, strict=True)):
            check_divides(size, part, mesh, f"parameter {path}: dim {dim} ({names[dim]})")
        return NamedSharding(mesh, spec_of(names, without=without))

    return map_with_path(one, abstract, axes)


def check_divides(size: int, part: Any, mesh: Mesh, what: str) -> None:
    """Raises `UserError` where the devices that `part` splits over do not divide `size`."""
    names = (part,) if isinstance(part, str) else tuple(part or ())
    count = math.prod(mesh.shape[name] for name in names)
    if size % count:
        fits = [str(n) for n in range(1, count) if size % n == 0]
        raise UserError(
            f"{what} of size {size} cannot be split over {count} devices of mesh axis "
            f"{'+'.join(names)}; use {' or '.join(fits)} there, or a size that {count} divides"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Rows over the batch axes, length over context, the rest whole."""
    return NamedSharding(mesh, spec_of(("batch", "length", None, None)[:ndim] if ndim else ()))


def batch_parts(mesh: Mesh) -> int:
    """How many parts a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(batch_size: int, mesh: Mesh, what: str) -> None:
    """Raises `UserError` where the mesh does not divide the batch."""
    check_divides(batch_size, BATCH_AXES, mesh, what)


def check_accumulation(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Raises `UserError` where the batch cannot be cut into micro-batches that the mesh divides."""
    if batch_size % accumulation:
        raise UserError(
            f"train.batch_size: {batch_size} rows cannot be cut into {accumulation} micro-batches; "
            f"set train.batch_size to a multiple of train.accumulation"
        )
    what = "train.batch_size" if accumulation == 1 else "train.batch_size / train.accumulation"
    check_batch(batch_size // accumulation, mesh, what)


def local_rows(batch_size: int, mesh: Mesh) -> list[int]:
    """The rows of a global batch that this process's devices hold, in ascending order.

    They need not be neighbours: on a pod the mesh follows the network, not the processes' numbers.
    """
    indices = batch_sharding(mesh, 1).addressable_devices_indices_map((batch_size,)).values()
    spans = [index[0].indices(batch_size) for index in indices if index is not None]
    return sorted({row for span in spans for row in range(*span)})


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows (`local_rows`, in order) as arrays over the whole mesh.

    Does not wait for the transfer.
    """
    out = {}
    for name, rows in batch.items():
        split = rows.ndim > 1 and rows.shape[1] % mesh.shape["context"] == 0
        sharding = batch_sharding(mesh, rows.ndim if split else 1)  # a short prompt stays whole
        if jax.process_count() == 1:
            out[name] = jax.device_put(rows, sharding)
        else:
            if split:
                rows = rows[:, _local_columns(rows.shape[1], mesh)]
            out[name] = jax.make_array_from_process_local_data(sharding, rows)
    return out


def _local_columns(length: int, mesh: Mesh) -> list[int]:
    """The part of each row's length that this process's devices hold, in ascending order."""
    shape = (batch_parts(mesh), length)
    indices = batch_sharding(mesh, 2).addressable_devices_indices_map(shape).values()
    spans = [index[1].indices(length) for index in indices if index is not None]
    return sorted({column for span in spans for column in range(*span)})


def to_global_whole(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Arrays that every process holds whole, as arrays with their rows split over the mesh."""
    rows = {name: local_rows(len(x), mesh) for name, x in batch.items()}
    return to_global({name: x[rows[name]] for name, x in batch.items()}, mesh)
