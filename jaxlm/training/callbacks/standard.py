"""The callbacks of every run, in the order in which they are called.

The order matters: bad steps are found before a line is written, and everything that a checkpoint
records (evaluations, what a callback of the config does) comes before the save. What is measured
before the first step comes after each `on_start`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jaxlm.core.callback import Hook
from jaxlm.distributed.consensus import decide
from jaxlm.runs.measures import read_displays
from jaxlm.runs.trackers import read_metrics
from jaxlm.training.callbacks.averaging import BeginAveraging
from jaxlm.training.callbacks.bad_steps import BadSteps
from jaxlm.training.callbacks.early_stop import EarlyStop
from jaxlm.training.callbacks.evaluate import AtStart, Evaluate
from jaxlm.training.callbacks.keep_best import KeepBest
from jaxlm.training.callbacks.metrics import LogMetrics
from jaxlm.training.callbacks.profile import Profile
from jaxlm.training.callbacks.sample import Sample
from jaxlm.training.callbacks.save import Save
from jaxlm.training.callbacks.watch import Beat, Ledger
from jaxlm.training.context import Context
from jaxlm.training.history import Point, check_measure
from jaxlm.training.meter import Figures


class Standard:
    """The callbacks of a run; `evaluate` and `sample` also serve its end."""

    def __init__(
        self,
        run: Context,
        figures: Figures,
        evaluators: Sequence[Any],
        sampler: Any,
        hooks: Sequence[Hook],
    ) -> None:
        config = run.config
        self.evaluate = Evaluate(evaluators)
        self.sample = Sample(sampler, config.sample.every_steps)
        save = Save()
        self._deciding: list[Hook] = []  # by measured values
        self._names: list[str] = []
        if (early := config.early_stop) is not None:
            check_measure("early_stop", early.measure, evaluators)
            self._deciding.append(EarlyStop(early))
            self._names.append(early.measure)
        averaging = None if config.optimizer is None else config.optimizer.averaging
        if averaging is not None:
            check_measure("optimizer.averaging", averaging.measure, evaluators)
            self._deciding.append(BeginAveraging(averaging))
            self._names.append(averaging.measure)
        if (best := config.checkpoint.keep_best) is not None:
            check_measure("checkpoint.keep_best", best.measure, evaluators)
            self._deciding.append(KeepBest(best, save))
            self._names.append(best.measure)
        self.callbacks: list[Hook] = [
            Beat(),
            *([Ledger()] if config.train.ledger else []),
            *([Profile(config.profile)] if config.profile is not None else []),
            BadSteps(),
            LogMetrics(figures, self.evaluate),
            *self._deciding,
            self.evaluate,
            self.sample,
            *(callback.build(run) for callback in config.callbacks),
            *hooks,
            save,
            AtStart(self.evaluate),
        ]

    def resume(self, run: Context, leg: int) -> None:
        """Restores what was decided at `run.step`. The last evaluation of a run follows its last
        save: its value is taken from metrics.jsonl where the run is made longer.
        """
        missing = [
            name
            for name in self._names
            if run.step and all(point.step != run.step for point in run.history.points(name))
        ]
        if missing:
            text = decide(f"history {leg}", "", lambda _: json.dumps(_logged(run, missing)))
            for name, (value, better) in json.loads(text).items():
                run.history.add(name, Point(run.step, float(value), better))
        for callback in self._deciding:
            callback.on_start(run)


def _logged(run: Context, names: Sequence[str]) -> dict[str, Any]:
    """{name: (value, which direction is better)} of lines of metrics at this step."""
    displays, found = read_displays(run.run_dir), {}
    for line in read_metrics(run.run_dir.metrics):
        for name in names:
            if line["step"] == run.step and isinstance(line.get(name), int | float):
                found[name] = str(line[name]), displays.get(name, {}).get("better")
    return found
