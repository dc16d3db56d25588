"""Programs that run in several processes, which find each other through the environment."""

from __future__ import annotations

import os
import socket

from tests.programs import run_programs

FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"


def in_two(program: str, *words: str) -> tuple[int, list[str]]:
    """(exit code, output of each) of a Python program in two processes of two devices each."""
    codes, outputs = in_processes(2, 2, program, *words)
    assert len(set(codes)) == 1, outputs
    return codes[0], outputs


def in_processes(
    count: int, devices: int, program: str, *words: str
) -> tuple[list[int], list[str]]:
    """(exit code, output) of each of several processes of a Python program.

    The tests' flag for the order of collectives is left out: the processes set it themselves.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = unordered().replace("device_count=8", f"device_count={devices}")
    environments = [
        {
            "XLA_FLAGS": flags,
            "JAXLM_COORDINATOR": address,
            "JAXLM_NUM_PROCESSES": str(count),
            "JAXLM_PROCESS_ID": str(index),
        }
        for index in range(count)
    ]
    return run_programs(program, [words] * count, environments)


def unordered() -> str:
    """The tests' own flags, without that of the order of collectives."""
    return " ".join(f for f in os.environ["XLA_FLAGS"].split() if not f.startswith(FLAG))
