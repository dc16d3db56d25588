"""Standard output and standard error that can be lost without losing the work.

    with work_without_a_screen("stdout", "stderr"):
        train()                     # `| head`, a full disk, a closed terminal: it trains to the end

The first write that fails is the last: from then on the text goes to /dev/null, also that of
libraries and of child processes that are started later. A reader that has seen enough (a closed
pipe) is not worth a line; any other reason is reported once on the stream that still works.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_NUMBERS = {"stdout": 1, "stderr": 2}


class Screen:
    """A text stream whose failing writes are dropped; all else is that of the stream it wraps."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream, self._name, self.lost = stream, name, False

    def write(self, text: str) -> int:
        with self._losing():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._losing():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._lose(error)
        except RuntimeError as error:  # a signal's line in the middle of another line's write
            if "reentrant" not in str(error):
                raise

    def _lose(self, error: OSError) -> None:
        if self.lost:
            return
        self.lost = True
        discard(self._stream)
        if isinstance(error, BrokenPipeError):
            return
        other = sys.stderr if self._name == "stdout" else sys.stdout
        with contextlib.suppress(OSError, ValueError):
            reason = (error.strerror or str(error)).lower()
            line = f"warning: {self._name}: {reason}; its text is lost, the work continues"
            print(line, file=other, flush=True)


@contextlib.contextmanager
def work_without_a_screen(*names: str) -> Iterator[None]:
    """A block in which the streams of these names, "stdout" and "stderr", may be lost."""
    fill_missing_streams()
    before = {name: getattr(sys, name) for name in names}
    for name, stream in before.items():
        setattr(sys, name, Screen(stream, name))
    try:
        yield
    finally:
        for name, stream in before.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)


def fill_missing_streams() -> None:
    """Opens /dev/null where the process was started without a standard stream (`>&-`).

    The number of the missing stream would else be that of the next file that is opened, and what a
    library prints would be written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least free number, which is this one
    for name in _NUMBERS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def discard(stream: Any) -> None:
    """Sends what a broken stream still holds, and all that follows, to /dev/null."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
