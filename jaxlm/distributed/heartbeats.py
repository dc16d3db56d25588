"""Which processes of a run are alive: a heartbeat each, and one that listens to all.

    peers = Peers(client, index=0, count=4)     # client: the distributed runtime's store of keys
    peers.start()
    peers.fail("ValueError: ...")               # the others end, and say why

Every process writes a beat under a key of its own. Process 0 reads them all, and writes down whom
it has missed for `MISSED_SECONDS`; the others read that one key, so the cost is one small message a
process and beat. A process that leaves in order writes so. jax's runtime has heartbeats as well,
but ends the process from within its own code, with a stack trace and no word of what to do.

The runtime lives in process 0: when that one dies, the others are ended by jax, at once.
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
GRACE_SECONDS = 8.0  # for one that has the same error to tell of it itself

_ALIVE, _FAILED, _MISSED = "jaxlm/alive", "jaxlm/failed", "jaxlm/missed"
_LEFT = "left"


class Peers:
    """This process's beat, and its ear for the others."""

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
        self._failing: float | None = None  # since when the store does not answer
        self._heard: dict[int, tuple[str, float]] = {}  # process -> (its last beat, when it came)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)

    def start(self) -> None:
        atexit.register(self.leave)  # before jax's own leaving, which was registered earlier
        self._thread.start()

    def leave(self) -> None:
        """From now on nobody misses this process."""
        if not self._over.is_set():
            self._over.set()
            self._set(f"{_ALIVE}/{self._index}", _LEFT)

    def listen(self) -> None:
        """Waits as long as it takes to miss a process: where one is, this call does not return."""
        self._thread.join(self._missed + 4 * self._beat)

    def fail(self, why: str, code: int = LOST) -> None:
        """Tells the others that this process ends, and waits until they can have read it.

        `code` is what they end with: a mistake of the user's is one whoever tells of it.
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
        """Process 0: writes down the first process that has not been heard of for too long."""
        now = time.monotonic()
        for index in range(1, self._count):
            beat = self._get(f"{_ALIVE}/{index}")
            known, since = self._heard.get(index, ("", now))
            if beat is not None and beat != known:
                self._heard[index] = (beat, now)
            elif beat is not None and beat != _LEFT and now - since > self._missed:
                host = beat.partition(" ")[2]
                self._set(
                    _MISSED,
                    f"process {index} on {host} was not heard of for {now - since:.0f} s: it was "
                    "killed, or its host or network is gone",
                )
                return

    def _stop(self, why: str, code: int) -> None:
        mend = "start all processes again, and the run goes on from its last checkpoint"
        print(
            f"error: {why}. Process {self._index} cannot go on without it and ends with code "
            f"{code}; {mend if code == LOST else 'mend that first'}",
            file=sys.stderr,
            flush=True,
        )
        if self._index == 0:
            time.sleep(2 * self._beat)  # the others read the store, which ends with this process
        self._end(code)

    def _set(self, key: str, value: str) -> None:
        """Writes to the store; what fails for once is made good by the next beat."""
        try:
            self._client.key_value_set(key, value, allow_overwrite=True)
            self._failing = None
        except Exception:
            now = time.monotonic()
            self._failing = now if self._failing is None else self._failing
            if now - self._failing > self._missed:  # it is gone with process 0: jax tells of that
                self._over.set()

    def _get(self, key: str) -> str | None:
        try:
            return self._client.key_value_try_get(key)
        except Exception:  # NOT_FOUND; or the store is gone, see above
            return None
