"""The figures of a config over several seeds: mean, standard deviation, lowest and highest.

    python tools/seeds.py configs/finetune/tag_en.yaml
    python tools/seeds.py configs/finetune/sentiment_en.yaml init.from=runs/quickstart --seeds 1 2 3
    python tools/seeds.py configs/classic/bow_nb.yaml --key data.split_salt --seeds 1 2 3

The run of seed S is runs/CONFIG-S. With `--key` the seeds are values of another key, such as the
salt of the hash by which texts are held out: each run then holds out other texts. The same command
continues an interrupted run, and reads those that have ended. The figures are those of the whole
validation split after the last step, and before the first one where `eval.at_start` is set; a
baseline is one whose value does not depend on the seed, unless the split does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean, stdev

import jaxlm
from jaxlm.core.errors import UserError
from jaxlm.core.exit_codes import MISTAKE
from jaxlm.core.measures import from_display
from jaxlm.runs.folder import RunDir
from jaxlm.runs.measures import read_displays
from jaxlm.runs.stopwatch import Stopwatch
from jaxlm.runs.trackers import read_metrics

EXTENTS = ("start/", "final/")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value, for every seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--key", default="seed", help="the key that they are values of")
    parser.add_argument(
        "--name", help="folders are runs/NAME-SEED; default: the name of the config"
    )
    arguments = parser.parse_intermixed_args()
    runs = []
    for seed in arguments.seeds:
        folder = f"runs/{arguments.name or arguments.config.stem}-{seed}"
        words = [*arguments.overrides, f"{arguments.key}={seed}", f"run_dir={folder}"]
        try:
            jaxlm.train(arguments.config, words)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return MISTAKE
        runs.append(RunDir(folder))
    for line in table(runs):
        print(line)
    return 0


def table(runs: list[RunDir]) -> list[str]:
    """A line for each figure that every run has: its name, mean, deviation and range."""
    values = [figures(run) for run in runs]
    displays = read_displays(runs[0])
    lines = [f"{'figure':44} {'mean':>9} {'+-':>9}   lowest to highest of {len(runs)}"]
    for key in values[0]:
        found = [each[key] for each in values if key in each]
        if len(found) == len(values):
            measure = from_display(key, found[0], displays.get(key))
            shown = [measure.shown(x) for x in (fmean(found), min(found), max(found))]
            spread = measure.shown(stdev(found)) if len(found) > 1 else "-"
            lines.append(f"{key:44} {shown[0]:>9} {spread:>9}   {shown[1]} to {shown[2]}")
    seconds = [Stopwatch.load(run.path).total for run in runs]
    return [*lines, f"minutes of a run: {', '.join(f'{s / 60:.1f}' for s in seconds)}"]


def figures(run: RunDir) -> dict[str, float]:
    """The figures of whole splits in metrics.jsonl, the newest of each."""
    found: dict[str, float] = {}
    for line in read_metrics(run.metrics):
        found.update({k: v for k, v in line.items() if k.startswith(EXTENTS)})
    return found


if __name__ == "__main__":
    sys.exit(main())
