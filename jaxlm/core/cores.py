"""The cores that this process may use: fewer than the machine has in a container or a job.

pool = ThreadPoolExecutor(available_cores())
use_cores(2)                                    # in one of several processes that share them
"""

from __future__ import annotations

import os

_given: int | None = None


def available_cores() -> int:
    """At least 1."""
    if _given is not None:
        return _given
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cores(count: int) -> None:
    """Sets what `available_cores` is from here on, in this process."""
    global _given
    _given = count
