"""SIGKILL at random instants, again and again, loses nothing: the tool that shows it.

`python tools/chaos.py CONFIG --kills 100` does the same at length.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

CONFIG = ROOT / "configs" / "smoke" / "transformer.yaml"
SETTINGS = ("sample.prompts=[]", "checkpoint.every_steps=10", "logging.tensorboard=false")


@pytest.mark.parametrize(
    ("kills", "words"),
    [
        (6, (CONFIG, *SETTINGS, "train.steps=60", "eval.every_steps=30")),
        (4, ("--scenario", "rollback")),  # of an LSTM that carries its state
    ],
)
def test_killed_runs_end_in_the_same_weights(
    tmp_path: Path, kills: int, words: tuple[object, ...]
) -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    environment["JAXLM_CACHE"] = str(tmp_path / "cache")
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # each start has the same steps
    command = (sys.executable, ROOT / "tools" / "chaos.py", *words, "--json", "--kills", kills)
    command += ("--fresh-every", 6, "--folder", tmp_path / "runs")
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env=environment,
    )
    (found,) = json.loads(done.stdout) if done.stdout else ({},)
    assert done.returncode == 0, found.get("problems", done.stderr)
    assert found["problems"] == [] and len(found["kills"]) == kills
    assert len(found["phases"]) >= 2, "all kills found the run in the same phase"
    assert any(kill["resumes_at"] > 0 for kill in found["kills"])
    assert any(kill["launcher"] == "fresh" for kill in found["kills"])
