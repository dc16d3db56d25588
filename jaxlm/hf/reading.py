"""From a folder's tensors straight into parameters on the mesh, a bounded chunk at a time.

    params = read_params(stored, match.pieces, program.abstract_params, chunk_bytes=64 << 20)

A stacked parameter is as large as a part of all layers together, and would lie on the host whole if
it were given to jax as one array. So each device's shard is made on the device and filled in
place: a chunk is cut out of the file, its dims put in order, widened to float32 and written. A
shard that several devices hold is read once. Nothing is read that no device of this process needs.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxlm.core.config import UserError
from jaxlm.core.errors import few
from jaxlm.core.tree import flatten, unflatten
from jaxlm.hf.stored import Stored
from jaxlm.models.families.shared.table import Piece

Region = tuple[tuple[int, int], ...]  # (start, stop) of each dim of a parameter


def read_params(
    stored: Stored,
    pieces: Mapping[str, Sequence[Piece]],
    abstract: Mapping[str, Any],
    *,
    chunk_bytes: int,
) -> dict[str, Any]:
    """The parameters, in the shardings of `abstract`; about three times `chunk_bytes` are on the
    host beside them. Raises `UserError` that lists tensors with NaN or infinite values.
    """
    broken: dict[str, None] = {}
    params = {
        path: _read_param(stored, pieces[path], leaf, chunk_bytes, broken)
        for path, leaf in flatten(abstract).items()
    }
    if broken:
        raise UserError(
            f"{stored.folder}: NaN or infinite values in {few(list(broken))}; get the files "
            "again, or the checkpoint from before they came"
        )
    return unflatten(params)


def check_repeats(
    stored: Stored,
    pieces: Mapping[str, Sequence[Piece]],
    repeats: Mapping[str, Sequence[Piece]],
    *,
    chunk_bytes: int,
) -> None:
    """Raises `UserError` where a tensor that repeats another one differs from it."""
    for path, parts in repeats.items():
        firsts = {piece.index: piece for piece in pieces[path]}
        for piece in parts:
            whole = tuple((0, size) for size in piece.shape)
            for part in _chunks(whole, chunk_bytes):
                again = _read_part(stored, piece, part)
                first = _read_part(stored, firsts[piece.index], part)
                if again.dtype != first.dtype or again.tobytes() != first.tobytes():
                    raise UserError(
                        f"{stored.folder}: {piece.name} is not {firsts[piece.index].name}, which "
                        "it is tied to by config.json; set what ties them there (such as "
                        "tie_word_embeddings) to what the file holds"
                    )


def _read_param(
    stored: Stored, pieces: Sequence[Piece], leaf: Any, chunk_bytes: int, broken: dict[str, None]
) -> jax.Array:
    by_index = {piece.index: piece for piece in pieces}
    stack = len(leaf.shape) - len(pieces[0].shape)
    assert len(by_index) == len(pieces) == math.prod(leaf.shape[:stack]), pieces[0].path
    read = functools.partial(_read_region, stored, by_index, dtype=leaf.dtype, broken=broken)
    shards: dict[Region, list[Any]] = {}
    for device, index in leaf.sharding.addressable_devices_indices_map(leaf.shape).items():
        region = tuple(part.indices(size)[:2] for part, size in zip(index, leaf.shape, strict=True))
        shards.setdefault(region, []).append(device)
    arrays = []
    for region, (first, *others) in shards.items():
        array = _fill(read, region, first, leaf.dtype, chunk_bytes)
        arrays += [array, *(jax.device_put(array, device) for device in others)]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, arrays)


def _fill(read: Any, region: Region, device: Any, dtype: Any, chunk_bytes: int) -> jax.Array:
    """The region of a parameter as an array of one device."""
    chunks = list(_chunks(region, chunk_bytes))
    if len(chunks) == 1:
        return jax.device_put(read(region), device)
    shape = tuple(stop - start for start, stop in region)
    array = _zeros(shape, dtype, device)
    for chunk in chunks:
        start = [a - b for (a, _), (b, _) in zip(chunk, region, strict=True)]
        array = _write(array, jax.device_put(read(chunk), device), start)
        array.block_until_ready()  # or chunks would pile up while the device is busy
    return array


@functools.cache
def _make_zeros(shape: tuple[int, ...], dtype: Any, device: Any) -> Any:
    sharding = SingleDeviceSharding(device)
    return jax.jit(lambda: jnp.zeros(shape, dtype), out_shardings=sharding)


def _zeros(shape: tuple[int, ...], dtype: Any, device: Any) -> jax.Array:
    return _make_zeros(shape, dtype, device)()


@functools.partial(jax.jit, donate_argnums=0)
def _write(array: jax.Array, chunk: jax.Array, start: list[Any]) -> jax.Array:
    return jax.lax.dynamic_update_slice(array, chunk, start)


def _chunks(region: Region, limit: int, itemsize: int = 4) -> Iterator[Region]:
    """The region in parts of at most `limit` bytes, cut along its first dims."""
    sizes = [stop - start for start, stop in region]
    if math.prod(sizes) * itemsize <= limit or not region:
        yield region
        return
    (start, stop), *rest = region
    row = math.prod(sizes[1:]) * itemsize
    most = max(1, limit // max(row, 1))
    equal = (n for n in range(most, most // 2, -1) if (stop - start) % n == 0)
    step = next(equal, most)  # equal parts have one shape, which is compiled once
    for first in range(start, stop, step):
        cut = (first, min(first + step, stop))
        if row <= limit or not rest:
            yield (cut, *rest)
        else:
            yield from ((cut, *inner) for inner in _chunks(tuple(rest), limit, itemsize))


def _read_region(
    stored: Stored,
    pieces: Mapping[tuple[int, ...], Piece],
    region: Region,
    *,
    dtype: Any,
    broken: dict[str, None],
) -> np.ndarray:
    """A region of a parameter, put together from the slices that its layers and experts are."""
    stack = len(next(iter(pieces)))
    out = np.empty([stop - start for start, stop in region], dtype)
    for index in itertools.product(*(range(start, stop) for start, stop in region[:stack])):
        place = tuple(i - start for i, (start, _) in zip(index, region, strict=False))
        with np.errstate(over="ignore"):  # a float64 beyond float32 is infinite, and reported
            out[place] = _read_part(stored, pieces[index], region[stack:])
        if not np.isfinite(out[place]).all():
            broken[pieces[index].name] = None
    return out


def _read_part(stored: Stored, piece: Piece, part: Region) -> np.ndarray:
    """A part of one slice of a parameter, in the file's dtype.

    A dim of the file may hold several of ours, "(N H)": then the rows of the wanted N are read, and
    the wanted H cut out of them.
    """
    left, right = piece.rearrangement.left, piece.rearrangement.right
    size, want = dict(zip(right, piece.shape, strict=True)), dict(zip(right, part, strict=True))
    slices = []
    for dim, (first, *others) in enumerate(left):
        row = math.prod(size[name] for name in others)
        shift = piece.start if dim == piece.dim else 0
        start, stop = want[first]
        slices.append(slice(shift + start * row, shift + stop * row))
    have = size | {group[0]: want[group[0]][1] - want[group[0]][0] for group in left}
    array = stored.read(piece.name, slices)
    array = piece.rearrangement.read(array, [have[name] for name in right])
    firsts = {group[0] for group in left}
    return array[tuple(slice(None) if n in firsts else slice(*want[n]) for n in right)]
