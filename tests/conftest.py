"""Every test runs on eight simulated CPU devices, which must be set before jax is imported.

A step that runs twenty times compiles in half the time under the flags of `tools/quick_xla.py`. For
products of small matrices one thread is enough: another worker has the other core. With collectives
in one order eight devices on two cores cannot wait for each other. XLA's newer emitters are tested
with a newer jax, and by what tests start as processes, which have their own settings. What one
worker or process of a test run has compiled, the others of that run read from a folder of its own.
"""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import core_set

# under nohup it is ignored, and then by every process that a test starts
signal.signal(signal.SIGHUP, signal.SIG_DFL)

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import quick_xla  # noqa: E402

quick_xla.set_flags(xla_force_host_platform_device_count="8")

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
    if quick_xla.OLDER_JAX and "jax" in sys.modules:  # files of tests that need it import it
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
    from verbs import warm_programs

    with warm_programs():
        yield


@pytest.fixture(scope="module", autouse=True)
def _what_stays_is_not_searched() -> Iterator[None]:
    """Programs and modules that stay to the end are not garbage, and large to look through."""
    yield
    gc.collect()
    gc.freeze()
