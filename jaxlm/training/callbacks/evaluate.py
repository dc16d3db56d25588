"""Measures the model with the run's evaluators, each in its own rhythm.

During training an evaluator measures its first `max_batches` batches: the points of one curve
(`eval/loss`), comparable with each other. After the last step it measures the whole split as well
(`final/loss`), in the same pass; before the first step too if asked (`start/loss`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxlm.core.callback import Hook
from jaxlm.core.measures import Measure
from jaxlm.training.context import Context

log = logging.getLogger("jaxlm")


class Evaluate(Hook):
    """evaluators: `jaxlm.evals.evaluators.Named`, that of `eval:` first."""

    def __init__(self, evaluators: Sequence[Any]) -> None:
        self._evaluators = evaluators
        self._done: dict[str, int] = {}  # the last step of each evaluator's curve

    def follows(self, run: Context, step: int) -> bool:
        """Whether an evaluation follows a step."""
        last = step == run.total
        return any(e.due_last(step) if last else e.due(step) for e in self._evaluators)

    def on_start(self, run: Context) -> None:
        self._done.clear()

    def due(self, run: Context, step: int) -> bool:
        return step < run.total and self.follows(run, step)

    def on_step(self, run: Context, step: int, metrics: Mapping[str, float]) -> None:
        line: list[Measure] = []
        for evaluator in self._evaluators:
            if evaluator.due(step):
                (found,) = self._measure(run, evaluator, [evaluator.config.max_batches])
                line += evaluator.keyed("eval", found)
                self._done[evaluator.name] = step
        self._report(run, line)

    def at_end(self, run: Context) -> list[Measure]:
        """Measures after the last step. Returns the figures of the larger of the two extents under
        the keys of result.json, and the tables, those of a named evaluator as "name/table".
        """
        line: list[Measure] = []
        final: list[Measure] = []
        for evaluator in self._evaluators:
            if not evaluator.due_last(run.step):
                continue
            config = evaluator.config
            counts = [config.max_batches, *([None] if config.at_end else [])]
            found = self._measure(run, evaluator, counts)
            first, last = found[0], found[-1]
            if self._done.get(evaluator.name) != run.step:  # else its line is written
                line += evaluator.keyed("eval", first)
            if config.at_end:
                ends = evaluator.keyed("final", last)
                if ends and last[0].value == first[0].value:
                    ends[0] = dataclasses.replace(ends[0], brief=None)
                line += ends
            tables = [
                m.named(evaluator.name) if evaluator.name else m for m in last if m.show == "table"
            ]
            final += [*evaluator.keyed("eval", last), *tables]
            self._judge(run, last)
        self._report(run, line, final)
        return final

    def extent(self, run: Context) -> dict[str, Any]:
        """The part of the validation split that the final figures are of, where there are any."""
        if not self._evaluators or not self._evaluators[0].due_last(run.step):
            return {}
        config, measuring = self._evaluators[0].config, self._evaluators[0].measuring
        found = measuring.extent(None if config.at_end else config.max_batches)
        return {"evaluated": found} if found else {}

    def at_start(self, run: Context) -> None:
        """Measures before the first step, the evaluators that are asked to."""
        line: list[Measure] = []
        for evaluator in self._evaluators:
            if evaluator.config.at_start:
                (found,) = self._measure(run, evaluator, [None])
                line += evaluator.keyed("start", [m for m in found if not m.baseline])
        self._report(run, line)

    def _measure(
        self, run: Context, evaluator: Any, counts: Sequence[int | None]
    ) -> list[list[Measure]]:
        with run.watch("eval"), run.watchdog.doing("batch of evaluation"):
            return evaluator.measuring.after(
                run.params,
                counts,
                on_batch=lambda: run.watchdog.beat(run.step),
                compiling=run.compiling,
            )

    def _report(self, run: Context, line: list[Measure], more: Sequence[Measure] = ()) -> None:
        if not line:
            return
        if run.first:
            run.records.write_displays([*line, *more])
            run.log(run.step, line, evaluated=True)
        for callback in run.callbacks:
            callback.on_measures(run, run.step, line)

    def _judge(self, run: Context, measures: Sequence[Measure]) -> None:
        """Only warns: broken weights may give a finite loss (what infinite sums divide is 0)."""
        main = measures[0] if measures else None
        if main is not None and not math.isfinite(main.value):
            log.warning("step %d: the %s of the evaluation is not finite", run.step, main.title)


class AtStart(Hook):
    """Measures before the first step. It is the last callback: all others have started by then, as
    they are told what was measured.
    """

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate

    def on_start(self, run: Context) -> None:
        if run.step == 0:
            self._evaluate.at_start(run)
