"""Processes that miss each other: threads of this one, over a store that is a dict."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from jaxlm.core.exit_codes import LOST, MISTAKE
from jaxlm.distributed.heartbeats import Peers

BEAT, MISSED, GRACE = 0.02, 0.4, 0.1


class Store:
    """As much of the distributed runtime's store as is used, with its way of saying no."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self.refuses = 0  # calls that fail yet
        self._lock = threading.Lock()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        with self._lock:
            if self.refuses:
                self.refuses -= 1
                raise RuntimeError("UNAVAILABLE")
            assert allow_overwrite or key not in self._values
            self._values[key] = value

    def key_value_try_get(self, key: str) -> str:
        with self._lock:
            if key not in self._values:
                raise RuntimeError(f"NOT_FOUND: {key}")
            return self._values[key]


class Group:
    """Some processes; `ended` has the codes of those that gave up, and when."""

    def __init__(self, count: int) -> None:
        self.ended: dict[int, tuple[int, float]] = {}
        store = self.store = Store()
        self.peers = [Peers(store, i, count, **self._options(i)) for i in range(count)]
        for peers in self.peers:
            peers.start()
        time.sleep(5 * BEAT)

    def _options(self, index: int) -> dict:
        def end(code: int) -> None:
            self.ended[index] = (code, time.monotonic())
            self.die(index)

        return {"beat": BEAT, "missed": MISSED, "grace": GRACE, "end": end}

    def die(self, index: int) -> None:
        """Without a word, as by SIGKILL."""
        self.peers[index]._over.set()

    def codes(self) -> dict[int, int]:
        return {index: code for index, (code, _) in sorted(self.ended.items())}


@pytest.fixture
def group() -> Iterator[Callable[[int], Group]]:
    made: list[Group] = []

    def make(count: int) -> Group:
        made.append(Group(count))
        return made[-1]

    yield make
    for one in made:
        for peers in one.peers:
            peers.leave()


def test_nobody_is_missed_who_beats_or_has_left(group: Callable[[int], Group]) -> None:
    three = group(3)
    three.peers[2].leave()
    time.sleep(3 * MISSED)
    assert three.codes() == {}


def test_a_silent_process_ends_all_others(
    group: Callable[[int], Group], capsys: pytest.CaptureFixture
) -> None:
    four = group(4)
    began = time.monotonic()
    four.die(2)
    time.sleep(MISSED + 12 * BEAT + 0.5)
    assert four.codes() == {0: LOST, 1: LOST, 3: LOST}
    assert all(when - began > MISSED - 2 * BEAT for _, when in four.ended.values())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith(f"error: process 2 on {socket.gethostname()} sent no heartbeat for")
        assert "start all processes again" in line
    # the store is process 0's: it goes last
    assert max(four.ended, key=lambda i: four.ended[i][1]) == 0


@pytest.mark.parametrize(("failed", "code"), [(0, LOST), (1, LOST), (1, MISTAKE)])
def test_an_error_is_reported_to_all_others(
    group: Callable[[int], Group], capsys: pytest.CaptureFixture, failed: int, code: int
) -> None:
    three = group(3)
    three.peers[failed].fail("ValueError: no such file", code)
    time.sleep(GRACE + 6 * BEAT + 0.5)
    assert three.codes() == {i: code for i in range(3) if i != failed}
    told = capsys.readouterr().err
    line = f"process {failed} on {socket.gethostname()} failed: ValueError: no such file"
    assert told.count(line) == 2


def test_one_that_waits_for_word_of_a_lost_one_is_ended_by_it(
    group: Callable[[int], Group],
) -> None:
    two = group(2)
    two.die(1)
    two.peers[0].listen()
    assert two.codes() == {0: LOST}


def test_a_call_that_fails_for_once_ends_nobody():
    group = Group(3)
    group.store.refuses = 4
    time.sleep(1.5 * MISSED)
    assert group.store.refuses == 0 and group.codes() == {}
    group.die(2)  # and who is gone is still missed
    time.sleep(MISSED + 20 * BEAT)
    assert group.codes() == {0: LOST, 1: LOST}
