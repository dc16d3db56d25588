"""Callbacks that tests give to `jaxlm.api.fit(..., hooks=[...])`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.core.callback import Callback, Hook, Taken
from jaxlm.core.config import field


class At(Hook):
    """Calls a function when a step has been dispatched: `At({3: lambda run: ...})`."""

    def __init__(self, acts: Mapping[int, Callable[[Any], object]]) -> None:
        self.acts = acts

    def on_dispatch(self, run: Any, taken: Taken) -> None:
        if taken.step in self.acts:
            self.acts[taken.step](run)


def terminate(run: Any = None) -> None:
    """The process receives SIGTERM."""
    signal.raise_signal(signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Signal(Callback):
    """Sends a signal to one process of a run when it has dispatched a step."""

    every_steps: int | None = field(None, "not called", ge=1)
    step: int = field(1, "the step", ge=1)
    number: int = field(int(signal.SIGTERM), "the signal", ge=1)
    process: str = field("1", "JAXLM_PROCESS_ID of the process")

    def on_dispatch(self, run: Any, taken: Taken) -> None:
        if taken.step == self.step and os.environ.get("JAXLM_PROCESS_ID") == self.process:
            os.kill(os.getpid(), self.number)


@dataclass(frozen=True, kw_only=True)
class Start(Callback):
    """Prints what the parameters are before the first step."""

    every_steps: int | None = field(None, "not called", ge=1)

    def on_start(self, run: Any) -> None:
        with run.watchdog.paused():
            sha = param_sha256(run.params)
        print("start", sha, jax.process_count(), jax.device_count(), flush=True)
