"""The environment of a run: the versions, devices and variables that its folder records."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

CORE = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "numpy")
EXTRA = ("tokenizers", "safetensors", "pyarrow", "wandb", "trackio")

Found = dict[str, Any]


def environment() -> Found:
    """The command, versions, devices, host, and the variables that XLA and jax read."""
    steering = {
        name: value for name, value in os.environ.items() if name.startswith(("XLA_", "JAX_"))
    }
    return {
        "command": " ".join(sys.argv),
        "versions": versions(),
        "devices": devices(),
        "host": platform.node(),
        "cores": os.cpu_count(),
        "variables": steering,
    }


def versions() -> dict[str, str]:
    from jaxlm import __version__

    versions = {"jaxlm": __version__, "python": platform.python_version()}
    versions["platform"] = f"{platform.system()} {platform.machine()}"
    for name in (*CORE, *EXTRA):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed" + ("" if name in CORE else " (optional)")
    return versions


def devices() -> Found:
    import jax

    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "local": jax.local_device_count(),
        "processes": jax.process_count(),
        "process": jax.process_index(),
        "memory_bytes": stats.get("bytes_limit"),
    }
