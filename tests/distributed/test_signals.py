"""Signals where nobody can raise: inside a callback of the garbage collector, as jax has one."""

from __future__ import annotations

import gc
import signal
import sys
from typing import Any

import pytest

from jaxlm.distributed.signals import Signals, Stopped


class InTheCollector:
    """Raises what it is given at the next collection."""

    def __init__(self, action: Any) -> None:
        self.action, self.done = action, False

    def __call__(self, phase: str, info: Any) -> None:
        if not self.done:
            self.done = True
            self.action()


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: seen.append(found.exc_type))
    return seen


def collect(action: Any) -> None:
    callback = InTheCollector(action)
    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert callback.done


def test_a_signal_that_a_callback_swallows_is_noted_without_a_traceback(
    unraisable: list[Any],
) -> None:
    with Signals() as signals:
        collect(lambda: signal.raise_signal(signal.SIGTERM))
        assert signals.asked
    assert unraisable == []


def test_other_errors_of_a_callback_are_reported(unraisable: list[Any]) -> None:
    with Signals():
        collect(lambda: 1 / 0)
    assert unraisable == [ZeroDivisionError]


def test_elsewhere_a_signal_raises() -> None:
    with Signals(), pytest.raises(Stopped, match="SIGTERM"):
        signal.raise_signal(signal.SIGTERM)


def test_a_hangup_stops_a_run_once_and_never_ends_it() -> None:
    with Signals() as signals, signals.waiting():
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
        assert signals.asked
        signal.raise_signal(signal.SIGTERM)  # the first of its kind: the save continues
    with Signals(), pytest.raises(Stopped, match="SIGHUP"):
        signal.raise_signal(signal.SIGHUP)


def test_under_nohup_a_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert not signals.asked
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
