"""The peak learning rate throughout."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jaxlm.optim.schedules.base import Schedule, Warmup


@dataclass(frozen=True, kw_only=True)
class Constant(Warmup):
    """The peak learning rate throughout."""

    def after_warmup(self, warmup: int, total_steps: int) -> Schedule:
        return jnp.ones_like
