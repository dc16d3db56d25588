"""Heartbeats: each process of a run sends one, and process 0 checks them all.

    peers = Peers(client, index=0, count=4)     # client: the distributed runtime's key-value store
    peers.start()
    peers.fail("ValueError: ...")               # the others report it and exit

Every process writes its beat under its own key. Process 0 reads all beats and publishes the first
process that was silent for `MISSED_SECONDS`. The others read that one key, so a beat costs one
small message for each process. A process that exits normally says so first. jax's runtime has
heartbeats as well, but it aborts the process with a stack trace and no advice.

The store is in process 0: when that process dies, jax ends the others immediately.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from jaxlm.core.exit_codes import LOST

BEAT_SECONDS = 3.0
MISSED_SECONDS = 20.0
GRACE_SECONDS = 8.0  # for processes with the same error to report it themselves

_ALIVE, _FAILED, _MISSED = "jaxlm/alive", "jaxlm/failed", "jaxlm/missed"
_LEFT = "left"


class Peers:
    """Sends the beat of this process, and checks those of the others."""

    def __init__(
        self,
        client: Any,
        index: int,
        count: int,
        *,
        beat: float = BEAT_SECONDS,
        missed: float = MISSED_SECONDS,
        grace: float = GRACE_SECONDS,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._client, self._index, self._count = client, index, count
        self._beat, self._missed, self._grace, self._end = beat, missed, grace, end
        self._failing: float | None = None  # the time since which the store does not answer
        self._seen: dict[int, tuple[str, float]] = {}  # process -> (its last beat, when it arrived)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)

    def start(self) -> None:
        atexit.register(self.leave)  # before jax's own leaving, which was registered earlier
        self._thread.start()

    def leave(self) -> None:
        """Announces a normal exit: from now on no process misses this one."""
        if not self._over.is_set():
            self._over.set()
            self._set(f"{_ALIVE}/{self._index}", _LEFT)

    def listen(self) -> None:
        """Waits until a dead process is noticed; if there is one, this does not return."""
        self._thread.join(self._missed + 4 * self._beat)

    def fail(self, why: str, code: int = LOST) -> None:
        """Reports to the others that this process ends, and waits until they can have read it.

        `code` is their exit code: a mistake of the user has the same code in all processes.
        """
        self._over.set()
        self._set(_FAILED, f"{code} process {self._index} on {socket.gethostname()} failed: {why}")
        if self._index == 0:  # it holds the store: while it lives, the others can read
            time.sleep(self._grace + 2 * self._beat)

    def _run(self) -> None:
        number = 0
        host = socket.gethostname()
        while not self._over.wait(self._beat if number else 0):
            number += 1
            self._set(f"{_ALIVE}/{self._index}", f"{number} {host}")
            if self._index == 0:
                self._count_beats()
            missed, failed = self._get(_MISSED), self._get(_FAILED)
            if missed is not None:
                self._stop(missed, LOST)
            elif failed is not None and not self._over.wait(self._grace):
                code, _, why = failed.partition(" ")
                self._stop(why, int(code))

    def _count_beats(self) -> None:
        """Process 0: publishes the first process that was silent for too long."""
        now = time.monotonic()
        for index in range(1, self._count):
            beat = self._get(f"{_ALIVE}/{index}")
            known, since = self._seen.get(index, ("", now))
            if beat is not None and beat != known:
                self._seen[index] = (beat, now)
            elif beat is not None and beat != _LEFT and now - since > self._missed:
                host = beat.partition(" ")[2]
                self._set(
                    _MISSED,
                    f"process {index} on {host} sent no heartbeat for {now - since:.0f} s: it was "
                    "killed, or its host or network failed",
                )
                return

    def _stop(self, why: str, code: int) -> None:
        fix = "start all processes again; the run continues from its last checkpoint"
        print(
            f"error: {why}. Process {self._index} cannot continue without it and ends with code "
            f"{code}; {fix if code == LOST else 'fix that first'}",
            file=sys.stderr,
            flush=True,
        )
        if self._index == 0:
            time.sleep(2 * self._beat)  # the others read the store, which is in this process
        self._end(code)

    def _set(self, key: str, value: str) -> None:
        """Writes to the store; the next beat repairs a single failure."""
        try:
            self._client.key_value_set(key, value, allow_overwrite=True)
            self._failing = None
        except Exception:
            now = time.monotonic()
            self._failing = now if self._failing is None else self._failing
            if now - self._failing > self._missed:  # process 0 has ended with it; jax reports that
                self._over.set()

    def _get(self, key: str) -> str | None:
        try:
            return self._client.key_value_try_get(key)
        except Exception:  # NOT_FOUND, or the store has ended, see `_set`
            return None
