"""The average of the weights from the step on at which validation no longer improves (NT-ASGD).

    optimizer:
      type: sgd
      learning_rate: 30
      averaging: {patience: 5}          # with eval.every_steps

Averaged SGD (Polyak and Juditsky 1992) returns the mean of the weights after steps T to K instead
of the last ones. NT-ASGD (Merity et al. 2018, arXiv:1708.02182, section 3) finds T from the
validation: at evaluation number t, counted from 0, with value v_t, averaging begins where

    t > n  and  v_t is worse than the best of v_0 ... v_(t-n-1)

with n the patience. The learning rate may then stay constant. Until averaging begins, the average
is the weights themselves, so evaluations and exports use it at any time. Any optimizer can be
averaged, not SGD alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxlm.core.config import Config, field


@dataclass(frozen=True, kw_only=True)
class Averaging(Config):
    """The mean of the weights of all steps from a step on that validation decides (NT-ASGD)."""

    measure: str = field("eval/loss", "a key of metrics.jsonl that is measured during training")
    patience: int = field(
        5, "averaging begins at a value worse than the best one that is older than these", ge=0
    )
    better: Literal["lower", "higher"] | None = field(
        None, "which values are better; null: as the measure says"
    )


def begins(
    values: Sequence[float], patience: int, better: Literal["lower", "higher"]
) -> int | None:
    """The number, from 0, of the first value at which averaging begins; None: at none of them."""
    for number, value in enumerate(values):
        older = [v for v in values[: max(number - patience, 0)] if not math.isnan(v)]
        best = (min if better == "lower" else max)(older, default=math.nan)
        if best > value if better == "higher" else best < value:
            return number
    return None


def update_average(average: Any, params: Any, count: jax.Array) -> tuple[Any, jax.Array]:
    """The average with the weights of one more step, and how many weights it is of.

    count: of how many it was, int32 []; 0 where averaging has not begun: then the average is the
    weights.
    """
    count = jnp.where(count > 0, count + 1, 0)
    share = 1.0 / jnp.maximum(count, 1).astype(jnp.float32)

    def one(mean: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(count > 1, mean + share.astype(mean.dtype) * (new - mean), new)

    return jax.tree.map(one, average, params), count
