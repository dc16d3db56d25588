"""Stops a run whose measure no longer improves: `early_stop: {measure: eval/loss, patience: 3}`.

The decision is a function of the measured values, which every checkpoint holds: a run that is
killed and resumed stops after the same step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxlm.core.callback import Hook
from jaxlm.core.measures import Measure, is_better
from jaxlm.run import EarlyStopConfig
from jaxlm.training.context import Context
from jaxlm.training.history import Point, check_reported, direction


class EarlyStop(Hook):
    """Ends training after `patience` evaluations without an improvement."""

    def __init__(self, config: EarlyStopConfig) -> None:
        self._config = config

    def on_start(self, run: Context) -> None:
        self._decide(run)

    def on_measures(self, run: Context, step: int, measures: Sequence[Measure]) -> None:
        if run.history.record(self._config.measure, step, measures):
            self._decide(run)
        check_reported("early_stop", self._config.measure, measures)

    def _decide(self, run: Context) -> None:
        run.stopping = run.stopping or stop_reason(
            self._config, run.history.points(self._config.measure)
        )


def stop_reason(config: EarlyStopConfig, points: Sequence[Point]) -> str:
    """The reason why a run stops after these measurements; "": it continues."""
    best: Point | None = None
    waited = 0
    for point in points:
        gained = best is None or is_better(
            direction(config.better, point), point.value, best.value, config.min_delta
        )
        if gained and not (best is None and math.isnan(point.value)):
            best, waited = point, 0
        else:
            waited += 1
    if waited < config.patience:
        return ""
    found = "was not a number" if best is None else f"is {best.value:.4f} since step {best.step}"
    return f"{config.measure} {found}, {waited} evaluations without an improvement"
