"""XLA flags that are set before jax makes the devices: on CPUs, collectives run in one order.

    order_simulated()       # at the start of a process: where the environment simulates devices
    order_collectives()     # where several processes on CPUs train together

XLA for CPUs schedules a program for concurrency: independent collectives run at the same time.
Devices that share a few threads can then be in different collectives, each waiting for the others:
they hang, XLA ends them after a minute, or gloo aborts. This concerns programs that are loaded from
jax's cache or a saved step: the file lacks the constraint that orders the collectives of a program
that was just compiled. Eight simulated devices on two cores hung in 8 of 8 runs with a loaded step
and in 0 of 7 that compiled it; four processes of two devices, with two busy loops on the machine,
in 7 of 13. With `ORDERED` it was 0 of 15 and 0 of 11. This module reads the environment only, and
does not import jax.
"""

from __future__ import annotations

import os
import re

ORDERED = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def order_simulated() -> None:
    """Orders collectives if the environment asks for several CPU devices in this process."""
    if _simulated() > 1:
        order_collectives()


def order_collectives() -> None:
    """Adds `ORDERED` to the environment, unless the user set that flag or names a file of flags."""
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("--"):
        return  # XLA reads it as the name of a file
    if ORDERED.partition("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {ORDERED}".strip()  # read when the devices are made


def _simulated() -> int:
    """The number of CPU devices the environment asks for; jax's own variable has precedence."""
    count = os.environ.get("JAX_NUM_CPU_DEVICES", "")
    if count.isdecimal():
        return int(count)
    flags = os.environ.get("XLA_FLAGS", "")
    counts = re.findall(r"--xla_force_host_platform_device_count=['\"]?(\d+)", flags)
    return int(counts[-1]) if counts else 1  # XLA uses the last value of a flag
