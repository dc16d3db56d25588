"""A process that hangs shows its stacks and ends; one that is slow, or compiles, does not."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxlm import api
from jaxlm.checkpoint import writer
from jaxlm.core.callback import Hook
from jaxlm.core.exit_codes import DONE, HUNG, NOT_FINITE
from jaxlm.distributed import watchdog
from jaxlm.distributed.watchdog import Watchdog
from jaxlm.generate import generator
from jaxlm.training import context, restoring, trainer
from jaxlm.training.outcome import Outcome
from jaxlm.training.program import Program
from tests import tiny
from tests.hooks import At

pytestmark = pytest.mark.usefixtures("shared_programs")

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


def test_a_hang_is_reported_with_stacks_and_its_own_code(
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


def test_a_block_that_has_more_time_has_an_end_as_well(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "log.txt")
    with watched.watchdog as watchdog:
        watchdog.beat(7)
        with watchdog.doing("save", 2):
            a_function_that_hangs(watched.ended)
    assert watched.codes == [HUNG]
    told = (tmp_path / "log.txt").read_text()
    assert "no save ended in 0.8 seconds (2 times train.hang_timeout) after step 7" in told


def test_what_follows_a_pause_is_watched(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "log.txt")
    with watched.watchdog as watchdog:
        with watchdog.paused():
            time.sleep(SECONDS / 2)
        a_function_that_hangs(watched.ended)
    assert watched.codes == [HUNG]


def test_a_log_that_cannot_be_written_keeps_no_process_alive(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "missing" / "log.txt")
    with watched.watchdog:
        a_function_that_hangs(watched.ended)
    assert watched.codes == [HUNG]


@pytest.mark.parametrize("how", ["beats", "paused", "more time", "off", "over"])
def test_no_alarm(tmp_path: Path, how: str) -> None:
    watched = Watched(tmp_path / "log.txt", None if how == "off" else SECONDS)
    with watched.watchdog as watchdog:
        for step in range(10):
            if how == "beats":
                watchdog.beat(step)
                time.sleep(SECONDS / 5)
        if how == "paused":
            with watchdog.doing("part"), watchdog.paused():
                watchdog.beat(10)  # it stays paused
                time.sleep(2 * SECONDS)
            time.sleep(SECONDS / 2)
        if how == "more time":
            with watchdog.doing("save", 6):
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
from jaxlm.distributed import watchdog

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

    def hang(run: Any) -> None:
        monkeypatch.setattr(watchdog, "end_process", codes.append)
        limit = time.monotonic() + 20
        while not codes and time.monotonic() < limit:
            time.sleep(0.05)

    settings = ("eval.every_steps=null", "eval.at_end=false", "sample.prompts=[]")
    run = tmp_path / "run"
    settings += ("mesh.num_devices=1", "train.hang_timeout=2", "train.steps=4")
    outcome = api.fit(tiny.load("transformer", *settings, f"run_dir={run}"), hooks=[At({3: hang})])
    assert outcome.code == DONE and codes == [HUNG]
    told = (run / "log.txt").read_text()
    assert "(train.hang_timeout) after step 3" in told and "in hang" in told


class Hang:
    """Something that hangs at its first call, until the watchdog of a loop would have ended it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.codes: list[int] = []
        self.calls = 0
        self.hooks: list[Hook] = []
        monkeypatch.setattr(watchdog, "end_process", self.codes.append)

    def a_call_that_hangs(self, *_: object) -> None:
        self.calls += 1
        limit = time.monotonic() + (20 if self.calls == 1 else 0)
        while not self.codes and time.monotonic() < limit:
            time.sleep(0.05)

    def in_evaluation(self, monkeypatch: pytest.MonkeyPatch) -> str:
        step = Program.eval_step

        def hang(program: Program, params: Any, batch: Any, *rest: Any) -> Any:
            jax.debug.callback(self.a_call_that_hangs, batch["tokens"].sum())
            return step(program, params, batch, *rest)

        monkeypatch.setattr(Program, "eval_step", hang)
        return "no batch of evaluation ended in 2 seconds (train.hang_timeout) after step 2"

    def in_sampling(self, monkeypatch: pytest.MonkeyPatch) -> str:
        draw = generator.next_token

        def hang(logits: jax.Array, *arguments: Any) -> jax.Array:
            jax.debug.callback(self.a_call_that_hangs, logits.sum())
            return draw(logits, *arguments)

        monkeypatch.setattr(generator, "next_token", hang)
        return "no part of a sample ended in 2 seconds (train.hang_timeout) after step 2"

    def in_a_save(self, monkeypatch: pytest.MonkeyPatch) -> str:
        write = writer.write_atomic

        def hang(*arguments: Any) -> None:
            self.a_call_that_hangs()
            write(*arguments)

        monkeypatch.setattr(writer, "write_atomic", hang)
        monkeypatch.setattr(context, "PATIENCE", 2)
        monkeypatch.setattr(trainer, "PATIENCE", 2)
        return "no save ended in 4 seconds (2 times train.hang_timeout) after step 2"

    def in_the_start(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """The search for a state to go on from, such as a restore that waits for a store."""
        find = restoring.find_state

        def hang(*arguments: Any) -> Any:
            self.a_call_that_hangs()
            return find(*arguments)

        monkeypatch.setattr(restoring, "find_state", hang)
        monkeypatch.setattr(trainer, "PATIENCE", 2)
        return "no start ended in 4 seconds (2 times train.hang_timeout): the process hangs"

    def in_the_save_before(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """One that is still under way when the run is stopped by its losses."""
        self.in_a_save(monkeypatch)

        def stop(run: Any) -> None:
            run.ended = Outcome(NOT_FINITE, "stopped")

        self.hooks.append(At({2: stop}))
        return "no save ended in 4 seconds (2 times train.hang_timeout) after step 2"


SMALL = ("mesh.num_devices=1", "train.hang_timeout=2", "train.steps=4", "eval.max_batches=2")


# Programs that call what is patched here must not be shared: another seed makes another program.
OWN_SEEDS = {"evaluation": 2, "sampling": 3}


@pytest.mark.parametrize(
    "where",
    [
        "evaluation",
        pytest.param("sampling", marks=pytest.mark.slow),  # a sample beats as an evaluation does
        "a_save",
        pytest.param("the_save_before", marks=pytest.mark.slow),
        "the_start",
    ],
)
def test_what_is_not_a_step_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Also at its first time, when it is compiled, which alone may take any time."""
    hang, run = Hang(monkeypatch), tmp_path / "run"
    line = getattr(hang, f"in_{where}")(monkeypatch)
    slow = jax.debug.callback

    def trace(*arguments: Any) -> None:
        time.sleep(3.5)
        slow(*arguments)

    monkeypatch.setattr(jax.debug, "callback", trace)
    every = 1 if where == "the_save_before" else 2
    settings = {
        "evaluation": ("eval.every_steps=2", "sample.prompts=[]"),
        "sampling": ("sample.every_steps=2", "eval.at_end=false"),
    }.get(where, (f"checkpoint.every_steps={every}", "eval.at_end=false", "sample.prompts=[]"))
    if where == "a_save":
        settings += ("checkpoint.async_save=false",)
    if where in OWN_SEEDS:
        settings += (f"seed={OWN_SEEDS[where]}",)
    resolved = tiny.load("transformer", *SMALL, *settings, f"run_dir={run}")
    outcome = api.fit(resolved, hooks=hang.hooks)
    assert hang.codes == [HUNG]
    assert where not in OWN_SEEDS or (outcome.code == DONE and hang.calls > 1)
    told = (run / "log.txt").read_text()
    assert line in told and "in a_call_that_hangs" in told
    assert not re.search(r"in trace$", told, re.MULTILINE), "it was compiled when it was found"
