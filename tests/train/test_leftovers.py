"""What a killed process leaves unfinished, the next one finishes, even where no step is left."""

from __future__ import annotations

from pathlib import Path

from jaxlm.train import loop
from jaxlm.train.checkpoint_dir import committed_steps
from jaxlm.train.loop import DONE, Outcome
from tests import tiny

SETTINGS = (
    *("train.steps=4", "checkpoint.every_steps=1", "eval.every_steps=null", "eval.at_end=false"),
    *("sample.prompts=[]", "logging.tensorboard=false", "mesh.num_devices=1"),
)


def train(run: Path, *settings: str) -> Outcome:
    return loop.train(tiny.load("transformer", *SETTINGS, f"run_dir={run}", *settings))


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
