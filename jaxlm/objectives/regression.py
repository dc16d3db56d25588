"""Regression: a number for a text or a pair, by the mean squared error.

loss = (w pool(h) + b - y)^2        mean over rows

objective: {type: regression, head: {pool: mean}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.nn.heads.scalar import Scalar
from jaxlm.objectives.base import LOSS, Loss
from jaxlm.objectives.with_head import HeadObjective, summed
from jaxlm.tasks.base import Task
from jaxlm.tasks.regression import Regression as RegressionTask

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache

ERROR = Measure("mae", better="lower", label="mean absolute error")


@dataclass(frozen=True, kw_only=True)
class Regression(HeadObjective):
    """Give a number for a row."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, ERROR)

    head: TaskHeadConfig = field(Scalar, "what gives the number, beside the model")

    needs = ("tokens", "segment_ids", "positions", "labels", "example_weights")

    @property
    def own_task(self) -> Task | None:
        return RegressionTask()

    def loss(self, model: Any, batch: Batch, *, key: jax.Array | None, cache: Cache | None) -> Loss:
        scores, out = self.scores(model, batch, key)  # [B, 1]
        error = scores[:, 0] - batch["labels"]
        metrics = {"loss": error**2, "mae": jnp.abs(error)}
        return summed(error**2, batch["example_weights"], metrics, out, cache)
