"""Requests of several clients, answered together by one thread.

    batches = Batches(size=16)
    batches.ask(work, [item, item]).result()     # work([item, item]): an answer for each item

Items of equal works that come within `wait` seconds are one call `work(items)`. If it raises
`UserError`, each request is answered alone: a wrong record spoils no other client's request.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from jaxlm.core.errors import UserError

Work = Callable[[list[Any]], list[Any]]  # compared by ==


class Asked(NamedTuple):
    """One request: its items, and where the answers go."""

    work: Work
    items: Sequence[Any]
    future: Future[list[Any]]


class Batches:
    """A queue of requests, and the thread that answers them in the order in which they came."""

    def __init__(self, *, size: int, wait: float = 0.005) -> None:
        """size: items that are answered together, at most; a larger request is answered alone.

        wait: seconds that the first request waits for others.
        """
        self._size, self._wait = size, wait
        self._asked: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._later: deque[Asked] = deque()  # what came while others were collected
        self._thread = threading.Thread(target=self._run, name="jaxlm-serve", daemon=True)
        self._thread.start()

    def ask(self, work: Work, items: Sequence[Any]) -> Future[list[Any]]:
        """The answers to come, one for each item."""
        asked = Asked(work, items, Future())
        self._asked.put(asked)
        return asked.future

    def close(self) -> None:
        """Answers what was asked before, then ends the thread."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._later.popleft() if self._later else self._asked.get()) is not None:
            group, ends = self._collect(first)
            self._work(group)
            if ends:
                while self._later:
                    self._work([self._later.popleft()])
                return

    def _collect(self, first: Asked) -> tuple[list[Asked], bool]:
        """The requests that are answered with the first one, and whether the queue was closed."""
        group, count = [first], len(first.items)

        def joins(other: Asked) -> bool:
            return other.work == first.work and count + len(other.items) <= self._size

        for other in [*self._later]:
            if joins(other):
                self._later.remove(other)
                group.append(other)
                count += len(other.items)
        until = time.monotonic() + self._wait
        while count < self._size:
            try:
                asked = self._asked.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if asked is None:
                return group, True
            if joins(asked):
                group.append(asked)
                count += len(asked.items)
            else:
                self._later.append(asked)
        return group, False

    def _work(self, group: list[Asked]) -> None:
        group = [asked for asked in group if asked.future.set_running_or_notify_cancel()]
        items = [item for asked in group for item in asked.items]
        try:
            answers = iter(group[0].work(items) if group else ())
        except UserError as error:
            if len(group) == 1:
                group[0].future.set_exception(error)
                return
            for asked in group:
                _alone(asked)
        except Exception as error:
            for asked in group:
                asked.future.set_exception(error)
        else:
            for asked in group:
                asked.future.set_result([next(answers) for _ in asked.items])


def _alone(asked: Asked) -> None:
    try:
        asked.future.set_result(asked.work(list(asked.items)))
    except Exception as error:
        asked.future.set_exception(error)
