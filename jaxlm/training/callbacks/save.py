"""Saves checkpoints when `checkpoint:` says so, never a state whose last steps were not applied."""

from __future__ import annotations

import time
from collections.abc import Mapping

from jaxlm.core.callback import Hook
from jaxlm.training.context import Context


class Save(Hook):
    """A save that is due among steps that were not applied follows the first one that is."""

    def __init__(self) -> None:
        self.owed = False

    def on_start(self, run: Context) -> None:
        self.owed = False

    def due(self, run: Context, step: int) -> bool:
        if step == run.total:  # the last save is forced
            return False
        self.owed |= run.saver.due(step, time.monotonic())
        if run.first:
            run.progress.checkpoint(run.saver.status())
        return self.owed and not run.bad_steps

    def on_step(self, run: Context, step: int, metrics: Mapping[str, float]) -> None:
        if not run.bad_steps:
            run.save()
            self.owed = False
        if run.first:
            run.progress.checkpoint(run.saver.status())
