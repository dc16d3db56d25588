"""What a killed process leaves unfinished, the next one finishes, even where no step is left."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxlm import api
from jaxlm.core.exit_codes import DONE, INTERRUPTED
from jaxlm.runs.checkpoints import committed_steps
from jaxlm.training.outcome import Outcome
from tests import tiny
from tests.commands import differences, is_change

pytestmark = pytest.mark.usefixtures("shared_programs")

SETTINGS = (
    "train.steps=4",
    "checkpoint.every_steps=1",
    "eval.every_steps=null",
    "eval.at_end=false",
    "sample.prompts=[]",
    "mesh.num_devices=1",
)


def train(run: Path, *settings: str) -> Outcome:
    return api.fit(tiny.load("transformer", *SETTINGS, f"run_dir={run}", *settings))


def test_a_run_killed_after_its_last_commit_removes_what_retention_does_not_keep(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    checkpoints = run / "checkpoints"
    assert train(run, "checkpoint.keep_last=4").code == DONE
    assert committed_steps(checkpoints) == [1, 2, 3, 4]
    (run / "result.json").unlink()
    (checkpoints / "00000003.broken").mkdir()
    (checkpoints / "00000007.broken").mkdir()
    assert train(run, "checkpoint.keep_last=1").code == DONE
    assert committed_steps(checkpoints) == [3, 4], "the last, and the newest that a step has proven"
    assert [path.name for path in checkpoints.glob("*.broken")] == ["00000007.broken"]


class Ended(BaseException):
    """The process is ended by a signal that it does not handle (yet)."""


class Signals:
    """SIGTERM just before the `at`-th change of a file or folder below `folder`; 0: none."""

    def __init__(self, folder: Path) -> None:
        self.inside, self.at, self.seen = f"{folder}/", 0, 0
        sys.addaudithook(self._look)

    def __call__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def _look(self, event: str, values: tuple[Any, ...]) -> None:
        if is_change(event, values) and str(values[0]).startswith(self.inside):
            self.seen += 1
            if self.seen == self.at:
                if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                    raise Ended
                signal.raise_signal(signal.SIGTERM)


@pytest.mark.chaos
def test_a_signal_at_any_change_of_a_start_or_an_end_loses_nothing(tmp_path: Path) -> None:
    """Between the changes of a run that has no step yet, then of one that has no step left."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = ("train.steps=2", "checkpoint.every_steps=null", "eval.at_end=true")
    signals = Signals(whole)
    signals(0)
    assert train(whole, *settings).code == DONE
    changes, signals = signals.seen, Signals(run)

    def stopped(at: int) -> bool:
        signals(at)
        try:
            return train(run, *settings).code == INTERRUPTED
        except Ended:
            return True

    start = range(1, changes // 2, 5)
    assert sum(map(stopped, start)) >= len(start) - 1
    assert not stopped(0)
    ends = 0
    for at in range(20, 32, 2):
        (run / "result.json").unlink(missing_ok=True)
        ends += stopped(at)
    assert ends >= 3, "a signal inside the loop lets a run without a step left end, others stop it"
    assert not stopped(0)
    assert differences(whole, run) == []
