"""Memory that a program frees is there for its next call."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A thread takes, fills and frees a large block three times, as XLA does at each call of a program.
PROGRAM = """
import ctypes, resource, sys, threading
from jaxlm.distributed.memory import keep_freed_memory

keep_freed_memory()
libc, size = ctypes.CDLL(None), 160 * 2**20
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
faults = []

def calls():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(size)
        libc.memset(block, 1, size)
        libc.free(block)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=calls)
thread.start()
thread.join()
print(faults[-1])
"""
PAGES = 160 * 2**20 // 4096


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ({}, True),
        ({"JAX_PLATFORMS": "cpu"}, True),
        ({"JAX_PLATFORMS": "tpu"}, False),
        ({"MALLOC_ARENA_MAX": "4"}, False),
    ],
)
def test_a_large_block_is_found_again(environment: dict[str, str], kept: bool) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "GLIBC_TUNABLES")}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    faults = int(done.stdout)
    assert faults < 100 if kept else faults > PAGES // 2


# Many small blocks, of which every hundredth stays, as a compiler leaves them.
PIECES = """
import ctypes
from jaxlm.distributed.memory import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

keep_freed_memory()
libc, size = ctypes.CDLL(None), 2**16
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
blocks = [libc.malloc(size) for _ in range(3200)]  # 200 MB
for block in blocks:
    libc.memset(block, 1, size)
for n, block in enumerate(blocks):
    if n % 100:
        libc.free(block)
before = resident()
return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize(
    ("environment", "returned"), [({}, True), ({"JAX_PLATFORMS": "tpu"}, False)]
)
def test_what_is_free_after_a_compilation_is_returned(
    environment: dict[str, str], returned: bool
) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "GLIBC_TUNABLES")}
    clean |= {"MALLOC_TRIM_THRESHOLD_": str(2**40)} if not returned else {}
    done = subprocess.run(
        [sys.executable, "-c", PIECES],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (int(done.stdout) > 150e6) is returned
