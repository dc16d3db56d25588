"""Keeps the best checkpoints: `checkpoint: {keep_best: {measure: eval/loss, count: 1}}`.

A step whose value is among the best is saved, and stays beside the newest checkpoints until
`count` others are better. Which ones follows from the values that every checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlm.checkpoint.writer import KeepBestConfig
from jaxlm.core.callback import Hook
from jaxlm.core.measures import Measure
from jaxlm.training.callbacks.save import Save
from jaxlm.training.context import Context
from jaxlm.training.history import best_steps, check_reported


class KeepBest(Hook):
    """Tells the saver which checkpoints stay, and asks for a save of a new one."""

    def __init__(self, config: KeepBestConfig, save: Save) -> None:
        self._config, self._save = config, save

    def on_start(self, run: Context) -> None:
        self._choose(run)

    def on_measures(self, run: Context, step: int, measures: Sequence[Measure]) -> None:
        if run.history.record(self._config.measure, step, measures):
            self._choose(run)
            self._save.owed |= step in run.saver.best
        check_reported("checkpoint.keep_best", self._config.measure, measures)

    def _choose(self, run: Context) -> None:
        points = run.history.points(self._config.measure)
        run.saver.best = tuple(best_steps(points, self._config.count, self._config.better))
