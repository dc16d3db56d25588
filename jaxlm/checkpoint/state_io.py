"""The arrays of a checkpoint: two functions over Orbax that name a leaf by its path.

A leaf at state["opt_state"][0].mu["kernel"] is stored as "opt_state/0/mu/kernel":

    metadata, finish = start_writing(folder, 100, state)  # the state may be donated from here on
    finish()                                              # in another thread
    state = read(folder, abstract_state, whole=True)
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.checkpoint.renames import present_names
from jaxlm.core.config import UserError
from jaxlm.core.errors import few
from jaxlm.core.tree import flatten, unflatten

ARRAYS, METADATA = "orbax", "state.json"
_READ_BYTES = 256 << 20  # on the host at a time while reading; at least twice the largest array
_SHOWN = 4  # paths of a kind that an error names


class _Repeated(logging.Filter):
    """Drops what orbax logs of an error that it raises too, with sixty lines of its own stack."""

    TEXTS = ("_SignalingThread.run() raised", "exception was never retrieved")

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in self.TEXTS)


for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_Repeated())


class ArrayInfo(NamedTuple):
    """dtype and shape of a stored array."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StateMetadata:
    """The metadata of a checkpoint: its step, the unix second of its save, its arrays by path.

    stored: {path: path in the checkpoint} of those that an older version saved by another name.
    """

    step: int
    time: float
    arrays: Mapping[str, ArrayInfo]
    stored: Mapping[str, str] = field(default_factory=dict)

    def count(self, prefix: str = "params/") -> int:
        """The number of values in the arrays below a prefix."""
        return sum(math.prod(a.shape) for path, a in self.arrays.items() if path.startswith(prefix))

    def to_json(self) -> bytes:
        arrays = {path: [info.dtype, list(info.shape)] for path, info in self.arrays.items()}
        return json.dumps(
            {"step": self.step, "time": self.time, "arrays": arrays}, indent=0
        ).encode()


def read_metadata(folder: Path) -> StateMetadata:
    try:
        body = json.loads((folder / METADATA).read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{folder}: there is no checkpoint here; `jaxlm info` lists those there are"
        ) from None
    names = present_names(body["arrays"])
    arrays = {path: _info(body["arrays"][name]) for path, name in names.items()}
    stored = {path: name for path, name in names.items() if path != name}
    return StateMetadata(body["step"], body["time"], arrays, stored)


def _info(values: tuple[str, list[int]]) -> ArrayInfo:
    dtype, shape = values
    return ArrayInfo(dtype, tuple(shape))


def snapshot(state: Any) -> Callable[[], Any] | None:
    """Keeps the values of a state that may be donated from here on; the result gives them as a
    state again, in any thread. None where that would cost a copy: then write it first.

    On CPUs views of the arrays' own memory are kept, which takes a millisecond: jax gives a buffer
    that is viewed to no donation, so the views keep their values. An accelerator's memory is not
    the host's, and several processes begin their writes together.
    """
    import jax
    import numpy as np

    leaves, treedef = jax.tree.flatten(state)
    devices = {device for leaf in leaves for device in leaf.sharding.device_set}
    if jax.process_count() > 1 or any(device.platform != "cpu" for device in devices):
        return None
    jax.block_until_ready(leaves)
    # A shard's own sharding says where it is: moments may be in pinned memory.
    parts = [
        [(s.data.sharding, np.asarray(s.data)) for s in leaf.addressable_shards] for leaf in leaves
    ]
    kinds = [(leaf.shape, leaf.sharding) for leaf in leaves]

    def again() -> Any:
        arrays = []
        for (shape, sharding), shards in zip(kinds, parts, strict=True):
            views = [jax.device_put(view, own, may_alias=True) for own, view in shards]
            arrays.append(jax.make_array_from_single_device_arrays(shape, sharding, views))
        return jax.tree.unflatten(treedef, arrays)

    return again


def start_writing(folder: Path, step: int, state: Any) -> tuple[StateMetadata, Callable[[], None]]:
    """Takes the state to the host and begins to write it; the second result waits for the end.

    On return the arrays may be donated. On a CPU Orbax holds views of the arrays' own memory
    instead of copies; jax gives a buffer that is viewed to no donation, so the views keep their
    values.
    """
    import jax
    from orbax.checkpoint import v1 as ocp

    leaves, _ = _leaves(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves.values()), (
        "a state is made of jax arrays"
    )
    arrays = {path: ArrayInfo(leaf.dtype.name, tuple(leaf.shape)) for path, leaf in leaves.items()}
    context = ocp.Context()
    context.array.saving.use_compression = False  # weights are noise: 8% smaller for 4 x the time
    # Sharing replicas among writers compiles a slice for each shape: for several hosts only.
    context.array.saving.use_replica_parallel = jax.process_count() > 1
    with context:
        response = ocp.save_async(folder / ARRAYS, unflatten(leaves))
    return StateMetadata(step, time.time(), arrays), response.result


def read(folder: Path, abstract_state: Any, *, whole: bool) -> Any:
    """Reads the leaves of `abstract_state` into their shardings; `whole`: there are no others."""
    import jax
    from orbax.checkpoint import v1 as ocp

    wanted, treedef = _leaves(abstract_state)
    metadata = read_metadata(folder)
    _check_tree(folder, wanted, metadata.arrays, whole)
    names = {path: metadata.stored.get(path, path) for path in wanted}
    abstract = {
        names[path]: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding or _one_device()
        )
        for path, leaf in wanted.items()
    }
    context = ocp.Context()
    context.pytree.loading.partial_load = not whole
    # Without a limit all arrays are read together, and are on the host and on the devices.
    largest = max((x.size * x.dtype.itemsize for x in abstract.values()), default=0)
    context.memory.read_concurrent_bytes = max(_READ_BYTES, 2 * largest)
    with context:
        tree = ocp.load(folder / ARRAYS, unflatten(abstract))
    arrays = flatten(tree)
    return treedef.unflatten([arrays[name] for name in names.values()])


def _leaves(tree: Any) -> tuple[dict[str, Any], Any]:
    """{"a/0/b": leaf} of any pytree, in its own order, and its structure."""
    import jax

    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
    assert len(leaves) == len(pairs), "two leaves of one path"
    return leaves, treedef


def _one_device() -> Any:
    import jax

    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _check_tree(
    folder: Path, wanted: Mapping[str, Any], stored: Mapping[str, ArrayInfo], whole: bool
) -> None:
    """Raises `UserError` where the checkpoint's arrays are not those that are asked for."""
    missing = [path for path in wanted if path not in stored]
    extra = [path for path in stored if path not in wanted] if whole else []
    other = [
        f"{path} (stored {_show(stored[path])}, wanted {_show(info)})"
        for path, leaf in wanted.items()
        if path in stored
        and (info := ArrayInfo(leaf.dtype.name, tuple(leaf.shape))) != stored[path]
    ]
    kinds = {"missing": missing, "not wanted": extra, "different": other}
    found = [f"{kind}: {few(paths, _SHOWN)}" for kind, paths in kinds.items() if paths]
    if found:
        raise UserError(
            f"{folder}: holds another model or optimizer; {'; '.join(found)}; "
            "use the config it was saved with"
        )


def _show(info: ArrayInfo) -> str:
    return f"{info.dtype}{list(info.shape)}"
