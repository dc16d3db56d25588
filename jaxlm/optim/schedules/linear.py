"""A straight line to the end of the run."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.core.config import field
from jaxlm.optim.schedules.base import Schedule, Warmup, falling


@dataclass(frozen=True, kw_only=True)
class Linear(Warmup):
    """A straight line from the peak to `final`."""

    final: float = field(0.0, "factor at the end of the run", ge=0, le=1)

    def after_warmup(self, warmup: int, total_steps: int) -> Schedule:
        return falling("linear", warmup, total_steps, self.final)
