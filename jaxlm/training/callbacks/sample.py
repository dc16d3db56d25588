"""Writes texts from the prompts of `sample:`, every so often and at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.core.callback import Hook
from jaxlm.runs.progress import quoted
from jaxlm.training.context import Context


class Sample(Hook):
    """sampler: a `jaxlm.evals.samples.Sampler`."""

    def __init__(self, sampler: Any, every_steps: int | None) -> None:
        self._sampler, self.every_steps = sampler, every_steps
        self._last = -1

    def on_start(self, run: Context) -> None:
        self._last = -1

    def due(self, run: Context, step: int) -> bool:
        return step < run.total and super().due(run, step)

    def on_step(self, run: Context, step: int, metrics: Mapping[str, float]) -> None:
        self.write(run)

    def write(self, run: Context) -> None:
        """Samples of this step, once."""
        if not self._sampler.prompts or self._last == run.step:
            return
        self._last = run.step
        with run.watch("sample"), run.watchdog.doing("part of a sample"):
            samples = self._sampler(
                run.params, on_part=lambda: run.watchdog.beat(run.step), compiling=run.compiling
            )
        if run.first:
            run.records.write_samples(run.step, samples)
            for sample in samples:
                run.progress.message(quoted(run.step, sample.prompt + sample.text))
