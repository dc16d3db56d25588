"""Destinations of a run's log lines: log.txt, and the screen, above the progress line if any.

with logging_to(run, first=True):
    log.info("restore order: ...")          # printed, and kept in log.txt
    with messages_above(progress):
        log.warning("...")                  # above the live line
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from jaxlm.runs.folder import RunDir
from jaxlm.runs.progress import Progress

log = logging.getLogger("jaxlm")


@contextmanager
def logging_to(run: RunDir, first: bool) -> Iterator[None]:
    """The log goes to log.txt, and to the screen until the progress line takes it over."""
    handlers: list[logging.Handler] = []
    if first:
        handlers.append(_LogFile(run.log))
        handlers[0].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler in handlers:
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with messages_above(None) if first else ExitStack():
            yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


@contextmanager
def messages_above(progress: Progress | None) -> Iterator[None]:
    """Log lines are printed above this progress line in the block; None: no line so far."""
    before, _SCREEN.progress = _SCREEN.progress, progress
    log.addHandler(_SCREEN)
    log.propagate = False
    try:
        yield
    finally:
        _SCREEN.progress = before
        if progress is None:
            log.removeHandler(_SCREEN)
            log.propagate = True


class _LogFile(logging.FileHandler):
    """log.txt; on a full disk it has holes, and the screen no traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class _Screen(logging.Handler):
    """Log lines for people: above the progress line where there is one."""

    progress: Progress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}"
        if self.progress is not None:
            self.progress.message(text)
        else:
            print(text, flush=True)


_SCREEN = _Screen()
