"""SIGKILL at random instants, again and again, loses nothing: the tool that shows it.

`python tools/chaos.py CONFIG --kills 100` does the same at length.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, use_environment
from tests.programs import launcher

sys.path.insert(0, str(ROOT / "tools"))

import chaos  # noqa: E402
from killing_scenarios import second_stage  # noqa: E402

pytestmark = pytest.mark.chaos

SECOND_STAGE = [scenario.name for scenario in second_stage(Path("unused"))]


@pytest.mark.parametrize(
    ("kills", "fresh", "scenario"),
    [
        (3, 6, "transformer"),
        # an LSTM that carries its state; killed in one process: training/test_bad_steps.py
        pytest.param(3, 0, "rollback", marks=pytest.mark.slow),
        # cut in one process: training/test_cut_second_stage.py, which names the others' tests
        *(pytest.param(3, 6, name, marks=pytest.mark.slow) for name in SECOND_STAGE),
    ],
)
def test_killed_runs_end_in_the_same_weights(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kills: int,
    fresh: int,
    scenario: str,
) -> None:
    options = ("--kills", kills, "--fresh-every", fresh, "--folder", tmp_path)
    command = ("--scenario", scenario, "--json", *options)
    with use_environment(tmp_path / "cache"):
        code = chaos.main([str(word) for word in command], launcher())
    shown = capsys.readouterr()
    (found,) = json.loads(shown.out)
    assert code == 0, (scenario, found["problems"], shown.err)
    assert found["problems"] == [] and len(found["kills"]) == kills
    assert len(found["phases"]) >= 2, "all kills found the run in the same phase"
    assert any(kill["resumes_at"] > 0 for kill in found["kills"])
    assert any(kill["launcher"] == "fresh" for kill in found["kills"]) == (fresh > 0)
