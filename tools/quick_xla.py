"""Settings under which XLA compiles small programs in half the time; they run a few times only.

    import quick_xla
    quick_xla.set_flags()        # before jax is imported

LLVM's own optimizations are left out: what XLA does to a program is the same. A program becomes
machine code in one piece: cutting it for several threads takes a tenth of the time of compiling it.
Products of small matrices run in one thread. Collectives come in one order (see
`jaxlm.distributed.xla_flags`). Where XLA still has its older emitters of fused loops they are
taken, which saves another quarter.
"""

from __future__ import annotations

import os
from importlib.metadata import version

OLDER_JAX = tuple(map(int, version("jax").split(".")[:2])) < (0, 11)
FLAGS = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_parallel_codegen_split_count": "1",
    "xla_cpu_multi_thread_eigen": "false",
    "xla_cpu_enable_concurrency_optimized_scheduler": "false",
}
if OLDER_JAX:  # newer ones do not know it
    FLAGS["xla_cpu_use_fusion_emitters"] = "false"


def set_flags(**more: str) -> None:
    """Adds these flags, and others by name, to those of the environment, which are kept."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    # Lines of source in programs cost a sixth of tracing and lowering.
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
    given = os.environ.get("XLA_FLAGS", "")
    flags = {**more, **FLAGS}
    missing = [f"--{name}={value}" for name, value in flags.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()
