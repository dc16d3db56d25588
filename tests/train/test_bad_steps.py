"""Steps whose loss is not finite: they cost nothing that was good, and a resume works."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from jaxlm.train import loop
from jaxlm.train.checkpoint_dir import committed_steps
from jaxlm.train.loop import DONE, INTERRUPTED, NOT_FINITE, Loop, Outcome
from tests import tiny

QUIET = (
    *("eval.every_steps=null", "sample.prompts=[]", "logging.tensorboard=false"),
    *("mesh.num_devices=1", "checkpoint.every_steps=1", "checkpoint.keep_last=1"),
)


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """{batch: factor of the weights after it}, as a step that breaks them has it."""
    at: dict[int, float] = {}
    compile_ = loop.compile_train_step

    def compiled(*arguments: Any) -> Any:
        import jax

        step = compile_(*arguments)
        scale = jax.jit(lambda tree, x: jax.tree.map(lambda p: p * x, tree))

        def run(state: Any, batch: Any) -> Any:
            number = int(jax.device_get(state["step"])) + 1
            state, metrics = step(state, batch)
            if number in at:
                with jax.transfer_guard("allow"):
                    state = {**state, "params": scale(state["params"], at[number])}
            return state, metrics

        return run

    monkeypatch.setattr(loop, "compile_train_step", compiled)
    return at


def train(run: Path, *settings: str, resume: bool = False) -> Outcome:
    resolved = tiny.load("transformer", *QUIET, f"run_dir={run}", *settings)
    return loop.train(resolved, must_exist=resume)


def test_a_bad_streak_replaces_and_prunes_nothing_and_the_hint_works(
    tmp_path: Path, breaking: dict[int, float]
) -> None:
    """Step 5 breaks the weights, its own loss is finite and it is saved."""
    breaking[5] = 1e30
    run = tmp_path / "run"
    outcome = train(run, "train.max_bad_steps=3")
    assert outcome.code == NOT_FINITE and "last at step 8" in outcome.message
    assert committed_steps(run / "checkpoints") == [4]
    assert (run / "checkpoints" / "00000005.broken").is_dir()
    assert "continue from checkpoint 4" in outcome.message
    breaking.clear()
    rate = "optimizer.learning_rate=1e-4"
    outcome = train(run, "train.max_bad_steps=3", rate, resume=True)
    assert outcome.code == DONE, outcome.message
    assert committed_steps(run / "checkpoints") == [11, 12], "no step has proven the last"
    assert not list((run / "checkpoints").glob("*.broken"))


def test_weights_that_break_at_the_first_step_leave_the_start(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("optimizer.schedule.warmup=0", "checkpoint.every_steps=1")
    outcome = train(run, *settings, "optimizer.learning_rate=1e30", "train.max_bad_steps=2")
    assert outcome.code == NOT_FINITE and "continue from the start" in outcome.message
    assert committed_steps(run / "checkpoints") == []
    command = re.search(r"`jaxlm resume .* (optimizer.learning_rate=)\.\.\.`", outcome.message)
    assert command is not None
    outcome = train(run, *settings, f"{command[1]}1e-3", "train.max_bad_steps=2", resume=True)
    assert outcome.code == DONE, outcome.message


def test_a_signal_in_a_streak_saves_nothing_and_the_resume_ends_in_the_same_weights(
    tmp_path: Path, breaking: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking[5] = 1e30
    run = tmp_path / "run"
    after = Loop._after

    def stop(self: Loop, state: Any, step: int) -> Outcome | None:
        if step == 7:
            signal.raise_signal(signal.SIGTERM)
        return after(self, state, step)

    monkeypatch.setattr(Loop, "_after", stop)
    outcome = train(run, "train.max_bad_steps=5")
    assert outcome.code == INTERRUPTED and "not saved" in outcome.message
    assert committed_steps(run / "checkpoints")[0] == 4


@pytest.mark.parametrize("at_end", [True, False])
def test_a_run_that_ends_in_a_streak_keeps_the_last_good_checkpoint(
    tmp_path: Path, breaking: dict[int, float], at_end: bool
) -> None:
    breaking[5] = 1e30
    run = tmp_path / "run"
    outcome = train(run, f"eval.at_end={at_end}".lower(), "train.steps=7")
    assert outcome.code == NOT_FINITE and "train.steps=5" in outcome.message
    assert committed_steps(run / "checkpoints") == [4]
