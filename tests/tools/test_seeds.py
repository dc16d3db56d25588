"""The table of a config's figures over seeds, from runs that have ended."""

from __future__ import annotations

import sys
from pathlib import Path

from jaxlm.core.files import write_sealed
from jaxlm.core.measures import Measure
from jaxlm.runs.folder import RunDir
from jaxlm.runs.trackers import LoggingConfig, MetricsWriter
from tests.commands import ROOT

sys.path.insert(0, str(ROOT / "tools"))

import seeds  # noqa: E402


def test_the_table_has_mean_deviation_and_range_of_what_every_run_has(tmp_path: Path) -> None:
    runs = []
    for number, accuracy in enumerate((0.5, 0.6, 0.7)):
        run = RunDir(tmp_path / f"run-{number}")
        with MetricsWriter(run.path, LoggingConfig(tensorboard=False)) as writer:
            writer.write(0, {"start/accuracy": 0.1})
            writer.write(4, {"eval/accuracy": 0.9})  # of a part of the split
            writer.write(9, {"final/accuracy": 0.0})
            last = {"final/accuracy": accuracy, "final/bleu": 1.0}
            writer.write(10, last if number else {"final/accuracy": accuracy})
        runs.append(run)
    display = Measure("final/accuracy", better="higher", format=".1%").display
    write_sealed(tmp_path / "run-0" / "measures.json", {"final/accuracy": display})
    lines = [line.split() for line in seeds.table(runs)]
    assert ["start/accuracy", "0.1000", "0.0000", "0.1000", "to", "0.1000"] in lines
    # of n - 1 = 2: sqrt((0.01 + 0 + 0.01) / 2)
    assert ["final/accuracy", "60.0%", "10.0%", "50.0%", "to", "70.0%"] in lines
    assert not any(line[0] in ("final/bleu", "eval/accuracy") for line in lines)
