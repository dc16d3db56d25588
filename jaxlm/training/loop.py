"""The training loop: it takes steps and calls callbacks.

    for taken in Loop(run, step, feed, stop).steps(): ...

One turn takes a batch that is on the device already, dispatches the compiled step, and reads the
metrics of the step before: the device never waits for the host. What has to wait for a step (an
evaluation, a sample, a save) is a callback that is `due`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxlm.core.callback import Taken
from jaxlm.runs.trackers import finalize
from jaxlm.training.context import Context
from jaxlm.training.feed import Feed
from jaxlm.training.learner import Step


class Loop:
    """Takes the steps of a run from `run.step` on, until its last one or until it has to stop."""

    def __init__(self, run: Context, step: Step, feed: Feed, stop: Callable[[], bool]) -> None:
        """stop: whether a signal asks the run to stop; asked once a turn, in all processes."""
        self.run, self._step, self._feed, self._stop = run, step, feed, stop
        self._unread: Taken | None = None  # the last step, whose metrics are on the device

    def steps(self) -> Iterator[Taken]:
        """Each step after what follows it; its metrics may still be on the device."""
        run = self.run
        for callback in run.callbacks:
            callback.on_start(run)
        while self._continues():
            with run.watch("data"):
                ids, batch = next(self._feed)
            taken = self._take(ids, batch)
            if not run.interrupted:
                self._call()
            yield taken
        if not run.interrupted:
            self._read()

    def _continues(self) -> bool:
        run = self.run
        return run.step < run.total and not (run.interrupted or run.stopping or self._stop())

    def _take(self, ids: np.ndarray, batch: Mapping[str, jax.Array]) -> Taken:
        """Dispatches a step, and reads the metrics of the one before."""
        run = self.run
        # Nothing moves between host and device here except by name: a hidden transfer is an error.
        with run.watch("step"), jax.transfer_guard("disallow"):
            batch = run.learner.batch(
                run.state,
                run.frozen,
                batch,
                on_part=lambda: run.watchdog.beat(run.step),
                compiling=run.compiling,
            )
            run.state, metrics = self._step(run.state, run.frozen, batch)
            run.step += 1
        taken = Taken(run.step, ids, metrics)
        for callback in run.callbacks:
            callback.on_dispatch(run, taken)
        with run.watch("step"), jax.transfer_guard("disallow"):
            self._read(taken)
        return taken

    def _read(self, latest: Taken | None = None) -> Mapping[str, Any]:
        """Reads the metrics of the step before `latest`, which the device has likely finished."""
        before, self._unread = self._unread, latest
        if before is None:
            return {}
        read = before._replace(metrics=jax.device_get(before.metrics))
        for callback in self.run.callbacks:
            if not self.run.interrupted:
                callback.on_metrics(self.run, read)
        return read.metrics

    def _call(self) -> None:
        """Calls the callbacks that are due after a step.

        Its line must be on disk before its checkpoint is: a run that is killed in between resumes
        after the step and never logs it again. So the metrics are read first.
        """
        run, metrics = self.run, None
        for callback in run.callbacks:
            if callback.due(run, run.step):
                if metrics is None:
                    metrics = finalize(self._read())
                    if run.interrupted:
                        return
                callback.on_step(run, run.step, metrics)
