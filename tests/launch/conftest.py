"""What the tests of targets share: a folder to launch from, and launches that do not wait."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from standins import StandIns  # noqa: E402

from jaxlm import cli  # noqa: E402
from jaxlm.launch import runner, start  # noqa: E402

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "configs/smoke/transformer.yaml")
SECRET = "Zq7-not-to-be-seen-Zq7"


@pytest.fixture
def standins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIns]:
    def make(*names: str) -> StandIns:
        made = StandIns(tmp_path, *names)
        monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
        monkeypatch.chdir(tmp_path)
        return made

    short = partial(runner.Runner, sleep=lambda seconds: time.sleep(min(seconds, 0.02)))
    monkeypatch.setattr(start, "Runner", short)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    return make


@pytest.fixture
def launch(capfd: pytest.CaptureFixture, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    def run(target: str, *words: str) -> tuple[int, str]:
        """(exit code, all that was printed) of `jaxlm launch` with a launch file of this text."""
        file = tmp_path / "target.yaml"
        file.write_text(target)
        capfd.readouterr()
        code = cli.main(["launch", str(file), SMOKE, "train.steps=7", *words])
        told = capfd.readouterr()
        return code, told.out + told.err

    return run
