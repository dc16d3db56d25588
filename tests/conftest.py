"""Every test runs on eight simulated CPU devices, which must be set before jax is imported.

LLVM's own optimizations are left out: what XLA does to a program is the same, and a step that runs
twenty times compiles in half the time. A program becomes machine code in one piece: cutting it for
several threads takes a tenth of the time of compiling it. Products of small matrices run in one
thread, for another worker has the other core. Collectives come in one order (see
`jaxlm.distributed.xla_flags`), else eight devices on two cores can wait for each other. Where XLA
still has its older emitters of fused loops they are taken, which saves another quarter; the newer
ones are tested with a newer jax, and by what tests start as processes, which have their own
settings. What one worker or process of a test run has compiled, the others of that run read from a
folder of its own.
"""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests import core_set

# under nohup it is ignored, and then by every process that a test starts
signal.signal(signal.SIGHUP, signal.SIG_DFL)

FLAGS = {
    "xla_force_host_platform_device_count": "8",
    "xla_backend_optimization_level": "0",
    "xla_cpu_parallel_codegen_split_count": "1",
    "xla_cpu_multi_thread_eigen": "false",
    "xla_cpu_enable_concurrency_optimized_scheduler": "false",
}
OLDER_JAX = tuple(map(int, version("jax").split(".")[:2])) < (0, 11)
if OLDER_JAX:  # newer ones do not know it
    FLAGS["xla_cpu_use_fusion_emitters"] = "false"

os.environ["JAX_PLATFORMS"] = "cpu"
# Lines of source in programs, which no test reads, cost a sixth of tracing and lowering.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
given = os.environ.get("XLA_FLAGS", "")
missing = [f"--{name}={value}" for name, value in FLAGS.items() if name not in given]
os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()

PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ

if not IS_WORKER:  # workers inherit it
    os.environ[PROGRAMS] = tempfile.mkdtemp(prefix="jaxlm-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.hookimpl(tryfirst=True)  # before -m takes some away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    some = config.getoption("lf", False) or any("::" in word for word in config.args)
    core_set.mark(items, whole_files=not some)


def pytest_collection_finish() -> None:
    if OLDER_JAX and "jax" in sys.modules:  # the files of tests import it, where they need it
        from tests.static_hashes import hash_static_values

        hash_static_values()


def pytest_unconfigure() -> None:
    if not IS_WORKER:
        shutil.rmtree(os.environ[PROGRAMS], ignore_errors=True)


# Tracing makes millions of objects that stay, which the collector would often look through.
gc.set_threshold(100_000, 20, 50)


@pytest.fixture(scope="module")
def shared_programs() -> Iterator[None]:
    """Runs of equal configs trace and compile once in a module of tests that train many."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
    from verbs import warm_programs

    with warm_programs():
        yield


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_searched() -> Iterator[None]:
    """Programs and modules that stay to the end are not garbage, and large to look through."""
    yield
    gc.collect()
    gc.freeze()
