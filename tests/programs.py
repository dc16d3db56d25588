"""Python programs in processes of their own, without the seconds that imports take.

    codes, outputs = run_programs(SOURCE, [["a"], ["b"]], [{"XLA_FLAGS": ...}, {}])

Each is a fork of one warm process (see tools/warm.py), which all tests of a worker share. A program
that is tested for what it imports needs an interpreter of its own.
"""

from __future__ import annotations

import atexit
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from warm import WarmLauncher  # noqa: E402

_started: list[WarmLauncher] = []


def launcher() -> WarmLauncher:
    """The one of this worker; a new one where that was killed."""
    if not _started or not _started[-1].running():
        _started.append(WarmLauncher())
        atexit.register(_started[-1].__exit__)
    return _started[-1]


def run_programs(
    program: str,
    arguments: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]],
    seconds: float = 240,
) -> tuple[list[int], list[str]]:
    """(exit codes, all that each printed) of a program, run by several processes side by side."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f"{i}.txt") for i in range(len(arguments))]
        processes = [
            launcher().start(list(words), log, environment, program=program)
            for words, log, environment in zip(arguments, logs, environments, strict=True)
        ]
        try:
            codes = [process.wait(seconds) for process in processes]
        except TimeoutError as error:
            printed = "\n".join(log.read_text() for log in logs)
            raise TimeoutError(f"{error}; what the programs printed:\n{printed}") from None
        finally:
            for process in processes:
                if process.running():
                    process.kill(signal.SIGKILL)
                    process.wait(10)
        return codes, [log.read_text() for log in logs]
