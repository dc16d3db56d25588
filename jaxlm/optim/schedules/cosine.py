"""Half a cosine (arXiv:1608.03983, one period)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.core.config import field
from jaxlm.optim.schedules.base import Schedule, Warmup, falling


@dataclass(frozen=True, kw_only=True)
class Cosine(Warmup):
    """Half a cosine from the peak to `final`."""

    final: float = field(0.0, "factor at the end of the run", ge=0, le=1)

    def after_warmup(self, warmup: int, total_steps: int) -> Schedule:
        return falling("cosine", warmup, total_steps, self.final)
