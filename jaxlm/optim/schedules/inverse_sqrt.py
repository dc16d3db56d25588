"""A fall with the square root of the steps (arXiv:1706.03762, 5.3)."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jaxlm.core.config import field
from jaxlm.optim.schedules.base import Schedule, Warmup


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Warmup):
    """A fall with the square root of the steps, for runs without a fixed end."""

    timescale: int | None = field(
        None, "steps after the warmup until the factor is 1/sqrt(2); null: the warmup", ge=1
    )
    final: float = field(0.0, "lower bound of the factor", ge=0, le=1)

    def after_warmup(self, warmup: int, total_steps: int) -> Schedule:
        timescale = self.timescale or max(
            warmup, 1
        )  # the warmup gives sqrt(w / s), as in the paper
        return lambda step: jnp.maximum(
            1 / jnp.sqrt(1 + (step - warmup) / timescale), jnp.float32(self.final)
        )
