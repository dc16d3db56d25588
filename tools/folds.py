"""The mean and the spread of a run's measures over held-out parts of its data.

    python tools/folds.py configs/classic/bow_nb.yaml

Each of `--folds` runs holds out another tenth of the texts, by a hash of the text with the
salt 1, 2, ... (`data.split_salt`), and trains on the rest. The tenths are drawn independently,
so two of them share about a tenth of their texts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from jaxlm import api
from jaxlm.run import load_run


def measures(config: str, fold: int, folder: Path, overrides: list[str]) -> dict[str, float]:
    """The final measures of one fold."""
    changes = [
        f"run_dir={folder / f'fold-{fold}'}",
        f"data.split_salt={fold + 1}",
        "data.validation_fraction=0.1",
        "logging.tensorboard=false",
    ]
    final = api.fit(load_run(config, [*changes, *overrides])).result["final"]
    return {name: value for name, value in final.items() if isinstance(value, float)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--folds", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [
            measures(asked.config, fold, Path(folder), asked.overrides)
            for fold in range(asked.folds)
        ]
    for name in found[0]:
        values = np.array([each[name] for each in found])
        print(f"{name:32} {values.mean():.4f} +- {values.std(ddof=min(1, len(values) - 1)):.4f}")


if __name__ == "__main__":
    main()
