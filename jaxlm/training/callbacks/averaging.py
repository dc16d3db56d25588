"""Begins the average of the weights where `optimizer.averaging` says (`jaxlm.optim.averaging`).

The decision is a function of the measured values, which every checkpoint holds, and so is the count
of averaged weights: a run that is killed and resumed has the same average.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from jaxlm.core.callback import Hook
from jaxlm.core.measures import Measure
from jaxlm.optim.averaging import Averaging, begins
from jaxlm.training.context import Context
from jaxlm.training.history import check_reported, direction


class BeginAveraging(Hook):
    """Sets the count of averaged weights in the state to 1 after the evaluation that decides."""

    def __init__(self, config: Averaging) -> None:
        self._config = config

    def on_start(self, run: Context) -> None:
        self._decide(run)

    def on_measures(self, run: Context, step: int, measures: Sequence[Measure]) -> None:
        if run.history.record(self._config.measure, step, measures) and step < run.total:
            self._decide(run)
        check_reported("optimizer.averaging", self._config.measure, measures)

    def _decide(self, run: Context) -> None:
        points = run.history.points(self._config.measure)
        if not points or int(jax.device_get(run.state["num_averaged"])) > 0:
            return
        better = direction(self._config.better, points[0])
        if begins([p.value for p in points], self._config.patience, better) is None:
            return
        one = jax.device_put(np.int32(1), run.state["num_averaged"].sharding)
        run.state = {**run.state, "num_averaged": one}
