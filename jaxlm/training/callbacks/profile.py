"""Records a trace of some steps: `profile: {start: 20, steps: 5}`.

The trace is in RUN/profile in TensorBoard's format: `tensorboard --logdir RUN/profile` with the
plugin `xprof` shows it. A profile is written by each process of the run.
"""

from __future__ import annotations

import logging
from typing import Any

import jax

from jaxlm.core.callback import Hook, Taken
from jaxlm.run import ProfileConfig
from jaxlm.training.context import Context

log = logging.getLogger("jaxlm")


class Profile(Hook):
    """Traces `steps` steps after step `start`; the first of these waits for what is before it."""

    def __init__(self, config: ProfileConfig) -> None:
        self._start, self._stop = config.start, config.start + config.steps
        self._tracing = False

    def on_start(self, run: Context) -> None:
        if run.step == self._start:
            self._begin(run)

    def on_dispatch(self, run: Context, taken: Taken) -> None:
        if taken.step == self._start:
            self._begin(run)
        elif self._tracing and taken.step >= self._stop:
            self._end(run)

    def on_end(self, run: Context, outcome: Any) -> None:
        self._end(run)

    def _begin(self, run: Context) -> None:
        if not self._tracing:
            jax.block_until_ready(run.state["step"])
            run.run_dir.profile.mkdir(exist_ok=True)
            jax.profiler.start_trace(str(run.run_dir.profile))
            self._tracing = True

    def _end(self, run: Context) -> None:
        if not self._tracing:
            return
        jax.block_until_ready(run.state["step"])  # the device has done what is to be seen
        with run.watch("other"), run.watchdog.paused():
            jax.profiler.stop_trace()
        self._tracing = False
        log.info("profile of steps %d to %d: %s", self._start + 1, run.step, run.run_dir.profile)
