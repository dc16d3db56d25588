"""Keeps what a program on CPUs has freed for its next call.

    keep_freed_memory()     # at the start of a process, before jax makes the devices
    return_freed_memory()   # after a compilation

XLA for CPUs takes the memory of a program's intermediate results at each call, and frees it at the
end. Under its defaults glibc returns so large a block to the kernel, and each step then finds it as
pages that the kernel has to clear: 218 MB, 56,000 page faults and a tenth of the time of a step of
the quick start. One arena, without mmap and without trimming, keeps it. What a compilation frees is
returned once: it is in small pieces, where no program's block fits (200 MB for six layers). This
module reads the environment only, and does not import jax.
"""

from __future__ import annotations

import ctypes
import os
import platform

from jaxlm.distributed.platforms import has_accelerator

# parameters of mallopt(3)
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
# what a user sets to choose for himself
CHOSEN = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory in this process, where programs run on the CPU.

    Does nothing where an accelerator is found, where there is another C library, and where the
    environment sets malloc's parameters.
    """
    if not _is_ours():
        return
    libc = ctypes.CDLL(None)
    # Threads with arenas of their own would map a large block all the same.
    libc.mallopt(ARENA_MAX, 1)
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """Returns what is free now to the kernel, in the processes that keep it."""
    if _is_ours():
        ctypes.CDLL(None).malloc_trim(0)


def _is_ours() -> bool:
    """Whether this process chooses how malloc keeps memory."""
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in CHOSEN):
        return False
    return not has_accelerator()
