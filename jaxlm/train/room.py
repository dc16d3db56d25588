"""Whether the state of a run fits in the memory of its devices at all, by arithmetic alone.

    check_room(program)        # raises UserError; nothing is allocated

A state that is larger than all memory together cannot be trained on any mesh. That a state fits
here does not say that the step does: `jaxlm plan` compiles the step and says.
"""

from __future__ import annotations

import math
import os
from typing import Any

import jax
import numpy as np

from jaxlm.config import UserError


def check_room(program: Any) -> None:
    """Raises `UserError` where parameters and optimizer state exceed the devices' whole memory."""
    sizes = [
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(program.abstract_state())
        if jax.dtypes.issubdtype(leaf.dtype, np.number)
    ]
    devices = list(program.mesh.devices.flat)
    need, room = sum(sizes), memory_of(devices)
    if room is not None and need > room:
        count = sum(math.prod(p.shape) for p in jax.tree.leaves(program.abstract_params))
        raise UserError(
            f"model: {count:,} parameters take {need / 1e9:,.1f} GB with their optimizer state, "
            f"but {len(devices)} devices have {room / 1e9:,.1f} GB in all; make the model smaller "
            "(model.hidden_size, model.num_layers, model.vocab_size), or use more devices"
        )


def memory_of(devices: list[Any]) -> float | None:
    """Bytes of all devices together; None where they do not say. CPU devices share their host's."""
    if devices[0].platform == "cpu":
        hosts = len({device.process_index for device in devices})
        return hosts * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    stats = devices[0].memory_stats() if devices[0].process_index == jax.process_index() else None
    limit = (stats or {}).get("bytes_limit")
    return None if limit is None else len(devices) * limit
