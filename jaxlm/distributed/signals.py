"""SIGTERM, SIGINT and SIGHUP ask a run to stop; a second SIGTERM or SIGINT ends the process.

A closed terminal sends SIGHUP, maybe twice; it never ends the process. A run started with `nohup`
ignores it.

with Signals() as signals:
    prepare()                   # a signal here raises `Stopped`: there is nothing to save
    with signals.waiting():
        while not signals.asked:    # a signal here is noted: the step ends and the run saves
            step()
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Iterator
from typing import Any

log = logging.getLogger("jaxlm")


class Stopped(KeyboardInterrupt):
    """A signal arrived when nothing had to be saved. `str()` is its name."""


class Signals:
    """Whether this process was asked to stop. For the main thread only."""

    def __init__(self) -> None:
        self.asked = False
        self._waiting = False
        self._insisted = False  # by a SIGTERM or a SIGINT

    def __enter__(self) -> Signals:
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that checks `asked` itself: a signal in it does not raise."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def _unraisable(self, found: Any) -> None:
        """Silences a `Stopped` that a library's callback swallowed: `asked` is set anyway."""
        if not isinstance(found.exc_value, Stopped):
            self._hook(found)

    def _handle(self, number: int, _: Any) -> None:
        if number != signal.SIGHUP:
            if self._insisted:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._insisted = True
        if self.asked:
            return
        self.asked = True
        name = signal.Signals(number).name
        if not self._waiting:
            raise Stopped(name)
        log.warning("%s: saving, then stopping; again to stop immediately", name)
