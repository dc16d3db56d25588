"""Whether a run can fit in the memory of its devices, by arithmetic.

    check_batch(config, mesh)  # raises UserError; before any data is prepared
    check_room(learner)        # raises UserError; nothing is allocated

Both are lower bounds: a state, or a batch, that is larger than all memory together cannot be
trained on any mesh. A batch of B rows of T tokens has three int32 [B, T + 1] as its input (tokens,
segments, positions), and its micro-batch [B / accumulation, T, D] numbers where a layer begins.
That a run fits here does not say that its step does: `jaxlm plan` compiles the step and says.
"""

from __future__ import annotations

import math
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten
from jaxlm.nn.stored_kernel import count_of
from jaxlm.run import RunConfig

ROW_KEYS = 3  # int32 numbers a token of a batch


def check_batch(config: RunConfig, mesh: Mesh) -> None:
    """Raises `UserError` where a batch exceeds the devices' whole memory, or the batches that are
    made ahead that of this host.
    """
    if config.data is None:
        return
    length, train = config.data.row_length, config.train
    devices = list(mesh.devices.flat)
    model = config.model.computing_on(devices[0].platform)
    batches = [("train.batch_size", train.batch_size, train.accumulation)]
    if config.eval.batch_size is not None:
        batches.append(("eval.batch_size", config.eval.batch_size, 1))
    for key, rows, parts in batches:
        inputs = ROW_KEYS * 4 * rows * (length + 1)
        width = getattr(model, "hidden_size", 0) * jax.numpy.dtype(model.dtype).itemsize
        need = inputs + rows * length * width // parts
        room = memory_of(devices)
        _check(key, rows, length, need, room, f"{len(devices)} devices have", "")
        ahead = inputs * (train.prefetch + 1) * jax.local_device_count() // len(devices)
        note = f", {train.prefetch} batches made ahead among them"
        _check(key, rows, length, ahead, host_memory(), "this host has", note)


def _check(
    key: str, rows: int, length: int, need: int, room: float | None, owner: str, note: str
) -> None:
    if room is None or need <= room:
        return
    ways = f"lower {key} or data.seq_len"
    if note:
        ways += " or train.prefetch"
    elif key == "train.batch_size":
        ways += ", or raise train.accumulation"
    raise UserError(
        f"{key}: {rows:,} rows of {length:,} tokens take {need / 1e9:,.1f} GB{note}, but {owner} "
        f"{room / 1e9:,.1f} GB in all; {ways}"
    )


def check_room(learner: Any) -> None:
    """Raises `UserError` where parameters and optimizer state exceed the devices' whole memory."""
    sizes = [
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves((learner.abstract_state(), learner.abstract_frozen()))
        if jax.dtypes.issubdtype(leaf.dtype, np.number)
    ]
    devices = list(learner.program.mesh.devices.flat)
    need, room = sum(sizes), memory_of(devices)
    if room is not None and need > room:
        count = count_of(flatten(learner.program.abstract_params))
        raise UserError(
            f"model: {count:,} parameters take {need / 1e9:,.1f} GB with their optimizer state, "
            f"but {len(devices)} devices have {room / 1e9:,.1f} GB in all; make the model smaller "
            "(model.hidden_size, model.num_layers, model.vocab_size), or use more devices"
        )


def memory_of(devices: list[Any]) -> float | None:
    """Bytes of all devices together; None where they do not say. CPU devices share their host's."""
    if devices[0].platform == "cpu":
        hosts = len({device.process_index for device in devices})
        return hosts * host_memory()
    stats = devices[0].memory_stats() if devices[0].process_index == jax.process_index() else None
    limit = (stats or {}).get("bytes_limit")
    return None if limit is None else len(devices) * limit


def host_memory() -> int:
    """Bytes of this host's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
