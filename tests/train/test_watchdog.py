"""A process that hangs shows its stacks and ends; one that is slow, or compiles, does not."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxlm.exit_codes import HUNG
from jaxlm.train import loop
from jaxlm.train.loop import DONE, Loop
from jaxlm.train.watchdog import Watchdog
from tests import tiny

SECONDS = 0.4


class Watched:
    def __init__(self, log: Path, seconds: float | None = SECONDS) -> None:
        self.codes: list[int] = []
        self.ended = threading.Event()
        self.watchdog = Watchdog(seconds, log, end=self._end)

    def _end(self, code: int) -> None:
        self.codes.append(code)
        self.ended.set()


def a_function_that_hangs(ended: threading.Event) -> None:
    ended.wait(10)


def test_a_hang_is_told_with_stacks_and_its_own_code(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    watched = Watched(tmp_path / "log.txt")
    with watched.watchdog as watchdog:
        watchdog.beat(7)
        a_function_that_hangs(watched.ended)
    assert watched.codes == [HUNG]
    for text in ((tmp_path / "log.txt").read_text(), capfd.readouterr().err):
        assert f"no step ended in {SECONDS} seconds (train.hang_timeout) after step 7" in text
        assert f"ends with code {HUNG}" in text
        assert "a_function_that_hangs" in text and "test_watchdog.py" in text


def test_a_log_that_cannot_be_written_keeps_no_process_alive(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "missing" / "log.txt")
    with watched.watchdog:
        a_function_that_hangs(watched.ended)
    assert watched.codes == [HUNG]


@pytest.mark.parametrize("how", ["beats", "paused", "off", "over"])
def test_no_alarm(tmp_path: Path, how: str) -> None:
    watched = Watched(tmp_path / "log.txt", None if how == "off" else SECONDS)
    with watched.watchdog as watchdog:
        for step in range(10):
            if how == "beats":
                watchdog.beat(step)
                time.sleep(SECONDS / 5)
        if how == "paused":
            with watchdog.paused():
                time.sleep(2 * SECONDS)
            time.sleep(SECONDS / 2)
        if how == "off":
            time.sleep(2 * SECONDS)
    if how == "over":
        time.sleep(2 * SECONDS)
    assert watched.codes == [] and not (tmp_path / "log.txt").exists()


def test_code_that_holds_the_interpreter_is_ended_too() -> None:
    """`re` looks at a hopeless pattern for ages, and lets no other thread run."""
    program = """
import re, sys
from pathlib import Path
from jaxlm.train import watchdog

watchdog.SPARE_SECONDS = 0.3
with watchdog.Watchdog(0.5, Path("/dev/null")):
    re.match("(a+)+b", "a" * 60)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"Timeout" in done.stderr and b"match" in done.stderr


def test_the_loop_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step beats; a turn that hangs is found."""
    codes: list[int] = []
    after = Loop._after

    def hang(self: Loop, state: object, step: int) -> object:
        if step == 3:
            monkeypatch.setattr(self.watchdog, "_end", codes.append)
            limit = time.monotonic() + 20
            while not codes and time.monotonic() < limit:
                time.sleep(0.05)
        return after(self, state, step)

    monkeypatch.setattr(Loop, "_after", hang)
    settings = ("eval.every_steps=null", "eval.at_end=false", "sample.prompts=[]")
    run = tmp_path / "run"
    settings += ("mesh.num_devices=1", "train.hang_timeout=3", "train.steps=4")
    outcome = loop.train(tiny.load("transformer", *settings, f"run_dir={run}"))
    assert outcome.code == DONE and codes == [HUNG]
    told = (run / "log.txt").read_text()
    assert "(train.hang_timeout) after step 3" in told and "in hang" in told
