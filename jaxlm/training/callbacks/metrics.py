"""Writes a line of metrics every `logging.every_steps` steps, one step late, and at the end."""

from __future__ import annotations

from jaxlm.core.callback import Hook, Taken
from jaxlm.training.callbacks.evaluate import Evaluate
from jaxlm.training.context import Context
from jaxlm.training.meter import Figures


class LogMetrics(Hook):
    """The metrics of steps go to metrics.jsonl, the trackers and the progress line."""

    def __init__(self, figures: Figures, evaluate: Evaluate) -> None:
        self._figures, self._evaluate = figures, evaluate

    def on_start(self, run: Context) -> None:
        self._figures.start(run.step)

    def on_metrics(self, run: Context, taken: Taken) -> None:
        step = taken.step
        self._figures.count(float(taken.metrics["tokens"][0]))
        if run.first and (step % run.config.logging.every_steps == 0 or step == run.total):
            line = self._figures.line(step, taken.metrics)
            run.log(step, line, more=self._evaluate.follows(run, step))
