"""A batch on the mesh: how it is split, which rows a process has, its rows as global arrays.

    rows = local_rows(batch_size, mesh)
    batch = to_global({"tokens": tokens[rows]}, mesh)

A process reads the rows that its own devices hold, and no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.core.config import UserError
from jaxlm.mesh.rules import BATCH_AXES, check_divides, spec_of


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Rows over the batch axes, length over context, the rest whole."""
    return NamedSharding(mesh, spec_of(("batch", "length", None, None)[:ndim] if ndim else ()))


def batch_parts(mesh: Mesh) -> int:
    """The number of parts that a batch is split into."""
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


def largest(x: jax.Array) -> int:
    """The largest number of an array on the mesh, which may be split over processes: all of them
    call this, and have the same answer.
    """
    sharding: Any = x.sharding
    return int(_largest(sharding.mesh)(x))


def padded(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """An array on the mesh with zeros after its own numbers, in a larger shape."""
    return _padded(x, tuple(shape))


@cache
def _largest(mesh: Mesh) -> Any:
    return jax.jit(jnp.max, out_shardings=replicated(mesh))


@partial(jax.jit, static_argnums=1)
def _padded(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.pad(x, [(0, new - old) for old, new in zip(x.shape, shape, strict=True)])
