"""Trains a run a step at a time, for notebooks.

with jaxlm.steps("configs/quickstart.yaml") as steps:
    for step in steps:
        if step.step % 10 == 0:
            print(step.step, step.metrics["loss"])
        if step.step == 50:
            break                       # saved: the same call continues after step 50
steps.outcome.message
"""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from jaxlm.api.opening import open_run, stopped
from jaxlm.api.training import resolve
from jaxlm.core.callback import Hook, Taken
from jaxlm.core.config import Resolved
from jaxlm.distributed.signals import Stopped
from jaxlm.run import RunConfig
from jaxlm.runs.trackers import finalize
from jaxlm.training.context import Context
from jaxlm.training.outcome import Outcome


def steps(
    config: str | Path | RunConfig,
    overrides: Iterable[str] = (),
    *,
    callbacks: Sequence[Hook] = (),
) -> Steps:
    """The steps of a run, from the newest checkpoint of its folder; the arguments of `train`.

    To leave the loop saves the run. Raises `UserError` for a mistake of the user.
    """
    return Steps(resolve(config, overrides), callbacks)


class Step:
    """A step that was taken. What it gives is valid until the next one."""

    def __init__(self, run: Context, taken: Taken) -> None:
        self.run, self.step = run, taken.step
        self._taken = taken

    def __repr__(self) -> str:
        return f"Step({self.step} of {self.run.total})"

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The metrics of this step: {"loss": ..., "grad_norm": ..., ...}. Waits for the step."""
        return finalize(jax.device_get(dict(self._taken.metrics)))

    @property
    def params(self) -> dict[str, Any]:
        """All parameters after this step, a nested dict of jax arrays; copy what is to be kept."""
        return self.run.params

    @property
    def state(self) -> dict[str, Any]:
        """The state that training changes: parameters, the state of the optimizer and so on."""
        return self.run.state


class Steps:
    """The steps of a run, once. `outcome` says how it ended; None: it has not."""

    def __init__(self, resolved: Resolved[RunConfig], callbacks: Sequence[Hook] = ()) -> None:
        self._resolved, self._callbacks = resolved, callbacks
        # weak: a loop that is left without `with` drops the generator, which then saves the run
        self._steps: weakref.ref[Generator[Step, None, None]] | None = None
        self.outcome: Outcome | None = None

    def __iter__(self) -> Iterator[Step]:
        assert self._steps is None, "the steps of a run are taken once; call jaxlm.steps again"
        steps = self._take()
        self._steps = weakref.ref(steps)
        return steps

    def _take(self) -> Generator[Step, None, None]:
        with ExitStack() as stack:
            trainer = open_run(stack, self._resolved, hooks=self._callbacks)
            if isinstance(trainer, Outcome):
                self.outcome = trainer
                return
            taken = trainer.steps()
            try:
                for each in taken:
                    yield Step(trainer.run_context, each)
            except GeneratorExit:
                trainer.asked = True  # to stop: the run is saved
                for _ in taken:
                    pass
                raise
            except Stopped as name:
                self.outcome = stopped(self._resolved, name)
            finally:
                self.outcome = self.outcome or trainer.outcome

    def close(self) -> None:
        """Saves the run where it has not ended; a second call does nothing."""
        steps = self._steps() if self._steps is not None else None
        if steps is not None:
            steps.close()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
