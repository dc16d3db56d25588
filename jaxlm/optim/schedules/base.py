"""Learning-rate schedules: a factor in [0, 1] of the peak learning rate, by step.

With s the number of updates already made, w the warmup, T the total, and p = (s - w) / (T - w):

    warmup        (s + 1) / (w + 1) while s < w: the first update is not lost, the peak is at s = w
    constant      1
    linear        1 - p                          towards `final`
    cosine        (1 + cos(pi p)) / 2            towards `final` (arXiv:1608.03983, one period)
    wsd           1, then linear, cosine or 1 - sqrt(p) in the last `decay` steps (arXiv:2405.18392)
    inverse_sqrt  1 / sqrt(1 + (s - w) / timescale), not below `final` (arXiv:1706.03762, 5.3)

A decay f "towards `final`" is final + (1 - final) f, and `final` from step T on. For example

    schedule = Cosine(warmup=0.02, final=0.1).build(total_steps=1000)
    learning_rate = peak * schedule(step)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from jaxlm.core.config import UserError, field
from jaxlm.core.types import ScheduleConfig

Schedule = Callable[[Any], Any]  # step (int or int32 scalar) -> float32 scalar

DECAYS: dict[str, Schedule] = {
    "linear": lambda p: 1 - p,
    "cosine": lambda p: (1 + jnp.cos(jnp.pi * p)) / 2,
    "sqrt": lambda p: 1 - jnp.sqrt(p),
}


@dataclass(frozen=True, kw_only=True)
class Warmup(ScheduleConfig, abstract=True):
    """The base of every schedule: a linear warmup, then `after_warmup`."""

    warmup: int | float = field(
        0, "linear warmup: a number of steps, or a fraction below 1 of all steps", ge=0
    )

    def validate(self) -> None:
        check_span("warmup", self.warmup)

    def build(self, total_steps: int) -> Schedule:
        """The factor by step (0-based), for a run of `total_steps` updates; jittable.

        Raises `UserError` where the parts of the schedule are longer than the run.
        """
        self.validate()
        warmup = span("warmup", self.warmup, total_steps)
        after = self.after_warmup(warmup, total_steps)

        def factor(step: Any) -> Any:
            step = jnp.asarray(step, jnp.float32)
            rising = (step + 1) / (warmup + 1)
            return jnp.where(step < warmup, rising, after(jnp.maximum(step, warmup)))

        return factor

    def after_warmup(self, warmup: int, total_steps: int) -> Schedule:
        """The factor at a float32 step that is not below `warmup` (in steps)."""
        raise NotImplementedError


def falling(shape: str, start: int, stop: int, final: float) -> Schedule:
    """1 until step `start`, then down to `final` at `stop` and after it."""

    def factor(step: Any) -> Any:
        p = jnp.clip((step - start) / max(stop - start, 1), 0, 1)
        return final + (1 - final) * DECAYS[shape](p)

    return factor


def check_span(name: str, value: int | float) -> None:
    if isinstance(value, float) and value >= 1:
        raise UserError(
            f"{name}: {value} is neither a whole number of steps nor a fraction below 1; "
            f"write {round(value)} for steps"
        )


def span(name: str, value: int | float, total_steps: int) -> int:
    """A number of steps, or a fraction of `total_steps`, as a number of steps."""
    steps = round(value * total_steps) if isinstance(value, float) else value
    if steps > total_steps:
        raise UserError(
            f"schedule.{name}: {steps} steps are more than the run's {total_steps}; "
            f"set it to at most {total_steps}, or to a fraction such as 0.05"
        )
    return steps
