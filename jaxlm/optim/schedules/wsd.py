"""Warmup, a stable rate, and a decay in the last part (arXiv:2405.18392)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxlm.core.config import UserError, field
from jaxlm.optim.schedules.base import Schedule, Warmup, check_span, falling, span


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Warmup):
    """The peak for most of the run, and a decay to `final` in its last part."""

    decay: int | float = field(
        0.2, "length of the decay: a number of steps, or a fraction below 1 of all steps", ge=0
    )
    shape: Literal["linear", "sqrt", "cosine"] = field(
        "sqrt", "the decay's curve; sqrt is 1 - sqrt(p)"
    )
    final: float = field(0.0, "factor at the end of the run", ge=0, le=1)

    def validate(self) -> None:
        super().validate()
        check_span("decay", self.decay)
        shares = [share for share in (self.warmup, self.decay) if isinstance(share, float)]
        if len(shares) == 2 and sum(shares) > 1:
            raise UserError(
                f"decay: {self.decay} of the run after {self.warmup} of warmup are more than all "
                "of it; shorten one of them"
            )

    def after_warmup(self, warmup: int, total_steps: int) -> Schedule:
        decay = span("decay", self.decay, total_steps)
        if warmup + decay > total_steps:
            raise UserError(
                f"schedule.decay: {decay} steps after {warmup} of warmup are more than the run's "
                f"{total_steps}; shorten one of them"
            )
        return falling(self.shape, total_steps - decay, total_steps, self.final)
