"""Real `jaxlm` processes for tests: each a fork of one warm process (see tools/warm.py)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from strikes import is_change  # noqa: E402
from warm import Process  # noqa: E402
from watching import Watched, differences, records  # noqa: E402

from tests.programs import launcher  # noqa: E402

__all__ = ["Commands", "Watched", "until", "records", "result", "use_environment"]
__all__ += ["differences", "is_change"]

QUIET = ("sample.prompts=[]", "eval.at_end=false", "logging.tensorboard=false")


@contextmanager
def use_environment(cache: Path) -> Iterator[None]:
    """One CPU device and a cache of its own for the processes that are started inside.

    LLVM's optimizations are left out, as in `conftest.py`; fused loops have their newer emitters.
    """
    before = dict(os.environ)
    os.environ.update(
        JAX_PLATFORMS="cpu",
        JAXLM_CACHE=str(cache),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    os.environ["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_parallel_codegen_split_count=1"
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Commands:
    """Starts commands and keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, 0

    def start(self, *arguments: object) -> tuple[Process, Path]:
        """A process under way, and the file that its output goes to."""
        self._count += 1
        log = self.folder / f"{self._count}.out"
        log.touch()
        return launcher().start([str(a) for a in arguments], log), log

    def run(self, *arguments: object) -> tuple[int, str]:
        """(exit code, output) of a command."""
        process, log = self.start(*arguments)
        return process.wait(300), log.read_text()


def until(condition: Callable[[], Any], process: Process, seconds: float = 120) -> None:
    """Waits for the condition; fails where the process ends or the time passes before it holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "did not happen in time"
        assert process.running(0.001) or condition(), "the process ended before"


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())
