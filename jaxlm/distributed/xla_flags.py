"""What XLA is told before jax makes the devices: on CPUs, collectives come in one order.

    order_simulated()       # at the start of a process: where the environment simulates devices
    order_collectives()     # where several processes on CPUs train together

XLA for CPUs orders a program for concurrency: independent collectives are under way at a time.
Devices that share a few threads, or processes, are then at different ones: each waits for the
others, and they hang, XLA ends them after a minute, or gloo aborts. Programs that are loaded do,
from jax's cache or a kept step: what binds the order of collectives in a program just compiled is
not in the file. Eight simulated devices on two cores hung in 8 of 8 runs whose step was loaded and
in none of 7 that compiled it; four processes of two devices, beside two busy loops, in 7 of 13.
With `ORDERED` none of 15 and none of 11 did. Only the environment is read, no jax is imported.
"""

from __future__ import annotations

import os
import re

ORDERED = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def order_simulated() -> None:
    """Orders collectives where the environment asks for several CPU devices in this process."""
    if _simulated() > 1:
        order_collectives()


def order_collectives() -> None:
    """Adds `ORDERED` to the environment; a user's word on it stands, as a file of flags does."""
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("--"):
        return  # XLA takes the whole for the name of a file, and ends where there is none
    if ORDERED.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {ORDERED}".strip()  # read when the devices are made


def _simulated() -> int:
    """How many CPU devices the environment asks for; as in jax, its own variable goes first."""
    told = os.environ.get("JAX_NUM_CPU_DEVICES", "")
    if told.isdecimal():
        return int(told)
    flags = os.environ.get("XLA_FLAGS", "")
    counts = re.findall(r"--xla_force_host_platform_device_count=['\"]?(\d+)", flags)
    return int(counts[-1]) if counts else 1  # the last of a flag's values is XLA's
