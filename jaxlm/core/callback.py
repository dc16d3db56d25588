"""Callbacks: what is called while a run trains.

    callbacks:
      - {type: "my_callbacks:Unfreeze", every_steps: 100}

A callback is one class; its methods do nothing by default:

    @dataclass(frozen=True, kw_only=True)
    class Norms(Callback):
        \"\"\"Logs the norm of the parameters.\"\"\"

        def on_step(self, run, step, metrics):
            norm = optax.tree.norm(run.params)
            run.log(step, [Measure("norm/params", float(norm))])

`run` is a `jaxlm.training.context.Context`: the config, the state, the step, `params`, `log`,
`stop`. A callback that has a state of its own returns an object with these methods from `build`.
What every step needs and must not wait for the device is in `on_dispatch` and `on_metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from jaxlm.core.config import Config, Kind, field
from jaxlm.core.measures import Measure

if TYPE_CHECKING:
    import numpy as np


class Taken(NamedTuple):
    """A step that was taken: its number from 1, the ids of its rows (this process's) and its
    metrics, (sum, weight) by name: device arrays in `on_dispatch`, host arrays in `on_metrics`.
    """

    step: int
    ids: np.ndarray
    metrics: Mapping[str, tuple[Any, Any]]


class Hook:
    """The methods that the training loop calls, in all processes, in the order of the list."""

    every_steps: int | None = None

    def due(self, run: Any, step: int) -> bool:
        """Whether `on_step` is called after this step. Asked once after each step."""
        return self.every_steps is not None and step % self.every_steps == 0

    def on_start(self, run: Any) -> None:
        """The state is there (`run.state`, `run.step`); the next is the first step.

        After a rollback it is called again.
        """

    def on_dispatch(self, run: Any, taken: Taken) -> None:
        """A step has been given to the device. Nothing here may wait for it."""

    def on_metrics(self, run: Any, taken: Taken) -> None:
        """The metrics of a step, on the host, while the device works on the next one."""

    def on_step(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        """A step that is `due` has ended; `metrics` are its own. The device waits meanwhile."""

    def on_measures(self, run: Any, step: int, measures: Sequence[Measure]) -> None:
        """Evaluators have measured after a step; the names are the keys of metrics.jsonl."""

    def on_end(self, run: Any, outcome: Any) -> None:
        """Training has ended, and the last checkpoint is saved."""


@dataclass(frozen=True, kw_only=True)
class Callback(Config, Hook):
    """A hook that is called while a run trains."""

    kind: ClassVar = Kind("callbacks", "callback", folder="jaxlm.training.callbacks")

    every_steps: int | None = field(1, "steps between two calls of on_step; null: none", ge=1)

    def build(self, run: Any) -> Hook:
        """The hook, made once for a run. By default the config itself, which has no state."""
        return self
