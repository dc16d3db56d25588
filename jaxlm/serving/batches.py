"""Requests of several clients, answered together by one thread.

    batches = Batches(size=16)
    batches.ask(work, [item, item]).result()     # work([item, item]): an answer for each item

Items of equal works that come within `wait` seconds are one call `work(items)`. If it fails, each
request is answered alone: a wrong record spoils no other client's request. A request whose client
leaves is not started, or `wanted` says to the work which of its items nobody waits for.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

log = logging.getLogger("jaxlm")

Work = Callable[[list[Any]], list[Any]]  # compared by ==


class Answers(Future[list[Any]]):
    """The answers to come to one request."""

    left = False

    def leave(self) -> None:
        """Nobody waits for them any more: what is not begun is not done."""
        self.left = True
        self.cancel()


class Asked(NamedTuple):
    """One request: its items, and where the answers go."""

    work: Work
    items: Sequence[Any]
    future: Answers


class Batches:
    """A queue of requests, and the thread that answers them in the order in which they came."""

    def __init__(self, *, size: int, wait: float = 0.005) -> None:
        """size: items that are answered together, at most; a larger request is answered alone.

        wait: seconds that the first request waits for others.
        """
        self._size, self._wait = size, wait
        self._asked: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._later: deque[Asked] = deque()  # what came while others were collected
        self._now: Sequence[Asked] = ()  # what is being answered
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="jaxlm-serve", daemon=True)
        self._thread.start()

    def ask(self, work: Work, items: Sequence[Any]) -> Answers:
        """The answers to come, one for each item. Raises `RuntimeError` after `close`."""
        asked = Asked(work, items, Answers())
        with self._lock:
            if self._closed:
                raise RuntimeError("the server is closed")
            self._asked.put(asked)
        return asked.future

    def wanted(self) -> list[bool]:
        """For the work that is running: whether somebody waits for the answer to each item."""
        return [not asked.future.left for asked in self._now for _ in asked.items]

    def close(self) -> None:
        """Answers what was asked before, then ends the thread."""
        with self._lock:
            self._closed = True
            self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._later.popleft() if self._later else self._asked.get()) is not None:
            group, ends = self._collect(first)
            self._answer(group)
            if ends:
                while self._later:
                    self._answer([self._later.popleft()])
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

    def _answer(self, group: Sequence[Asked]) -> None:
        """Answers requests together; each by itself where that fails."""
        alive = [asked for asked in group if asked.future.set_running_or_notify_cancel()]
        if len(alive) > 1:
            try:
                answers = iter(self._answers(alive))
            except Exception:
                log.debug("%d requests are answered one by one", len(alive), exc_info=True)
            else:
                for asked in alive:
                    asked.future.set_result([next(answers) for _ in asked.items])
                return
        for asked in alive:
            try:
                asked.future.set_result(self._answers([asked]))
            except Exception as error:
                asked.future.set_exception(error)

    def _answers(self, group: Sequence[Asked]) -> list[Any]:
        self._now = group
        items = [item for asked in group for item in asked.items]
        answers = list(group[0].work(items))
        if len(answers) != len(items):
            raise RuntimeError(f"{len(answers)} answers to {len(items)} items")
        return answers
