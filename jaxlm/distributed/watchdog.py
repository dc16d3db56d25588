"""Ends a process that hangs: no step ended within the seconds that are allowed.

    with Watchdog(600, run.log) as watchdog:
        while step < total:
            ...
            watchdog.beat(step)
            with watchdog.paused():     # a compilation may take any time
                compile()
            with watchdog.doing("save", PATIENCE):  # a block without beats may take longer
                save()

A thread checks the time of the last beat; it never uses a device. If that is too long ago, it
writes the stacks of all threads to stderr and the log, and ends the process with
`exit_codes.HUNG`, after which a launcher starts it again. If a library hangs and holds the
interpreter, that thread cannot run; then `faulthandler`'s timer, which does not need the
interpreter, does the same with exit code 1.
"""

from __future__ import annotations

import faulthandler
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from jaxlm.core.exit_codes import HUNG

LOOKS = 20  # checks of the clock within the allowed time
SPARE_SECONDS = 30  # that faulthandler's timer waits in addition
# A save waits for a slow disk, or for other processes (at most 20 minutes, see `decide`). It may
# take this many times the allowed time: an hour by default.
PATIENCE = 6


class Block(NamedTuple):
    """The current work of the process: `what` has to end within `times` the allowed seconds."""

    what: str
    times: float


STEP, PAUSE = Block("step", 1), Block("compilation", math.inf)


class Watchdog:
    """Ends the process when `seconds` pass without a beat; None: never.

    `linger`: seconds that this process stays after its report. The process that has the store stays
    for a while: when it ends, the others end immediately, before they can write their stacks.
    """

    def __init__(
        self,
        seconds: float | None,
        log: Path,
        *,
        linger: float = 0.0,
        end: Callable[[int], None] | None = None,
    ) -> None:
        """`end`: ends the process with an exit code; None: `end_process`."""
        self._seconds, self._log, self._linger, self._end = seconds, log, linger, end
        self._step: int | None = None  # the last that ended, where one is known
        self._now = time.monotonic(), STEP  # the last beat, and the block since; one assignment
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._now = time.monotonic(), STEP
        if self._seconds is not None:
            self._set_spare()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._seconds is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def beat(self, step: int) -> None:
        """Reports progress: a step has ended, or the block after it advances."""
        self._step = step
        self._now = time.monotonic(), self._now[1]

    def paused(self) -> AbstractContextManager[None]:
        """A block that may take any time: a compilation."""
        return self._within(PAUSE)

    def doing(self, what: str, times: float = 1) -> AbstractContextManager[None]:
        """A block of `what`, such as a "save", that beats, or ends, within `times` the seconds."""
        return self._within(Block(what, times))

    @contextmanager
    def _within(self, block: Block) -> Iterator[None]:
        before = self._now[1]
        self._now = time.monotonic(), block
        try:
            yield
        finally:
            self._now = time.monotonic(), before

    def _watch(self) -> None:
        assert self._seconds is not None
        while not self._over.wait(self._seconds / LOOKS):
            last, block = self._now
            if time.monotonic() - last > self._seconds * block.times:
                self._bark(block)
                return
            self._set_spare()

    def _set_spare(self) -> None:
        """Restarts faulthandler's timer, which therefore fires only if this thread does not run."""
        assert self._seconds is not None
        spare = self._seconds + SPARE_SECONDS
        faulthandler.dump_traceback_later(spare, exit=True, file=sys.__stderr__ or sys.stderr)

    def _bark(self, block: Block) -> None:
        assert self._seconds is not None
        faulthandler.cancel_dump_traceback_later()
        times = f"{block.times:g} times " if block.times != 1 else ""
        after = "" if self._step is None else f" after step {self._step}"
        line = (
            f"error: no {block.what} ended in {self._seconds * block.times:g} seconds "
            f"({times}train.hang_timeout){after}: the process hangs and ends with code {HUNG}; "
            "started again, the run continues from its last checkpoint. All threads:\n"
        )
        _dump(sys.__stderr__ or sys.stderr, line)
        try:
            with self._log.open("a") as file:
                _dump(file, line)
        except OSError:  # stderr has it
            pass
        time.sleep(self._linger)
        (self._end or end_process)(HUNG)


def end_process(code: int) -> None:
    """Ends the process, whatever its threads do."""
    os._exit(code)


def _dump(file: IO[str], line: str) -> None:
    file.write(line)
    file.flush()
    faulthandler.dump_traceback(file=file, all_threads=True)
    file.flush()
