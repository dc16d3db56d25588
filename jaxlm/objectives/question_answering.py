"""Extractive question answering: where the answer begins and where it ends in a row.

A head scores every token as the first and as the last one (`jaxlm.nn.heads.span`). With the softmax
over the tokens of the row that are not padding,

    loss = -(log p_start[start] + log p_end[end]) / 2        mean over rows

(Devlin et al. 2019, as transformers computes it on rows without padding). A row without the answer
has its first token as start and end.

    objective: {type: question_answering}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.nn.heads.span import Span
from jaxlm.objectives.base import LOSS, Loss
from jaxlm.objectives.with_head import HeadObjective, summed
from jaxlm.tasks.base import Task
from jaxlm.tasks.question_answering import QuestionAnswering as AnsweringTask

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache

ACCURACY = Measure(
    "accuracy", better="higher", show="headline", label="start and end right", format=".1%"
)


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(HeadObjective):
    """Find the span that answers."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, ACCURACY)

    head: TaskHeadConfig = field(Span, "what scores starts and ends, beside the model")

    needs = ("tokens", "segment_ids", "positions", "start", "end", "example_weights")

    @property
    def own_task(self) -> Task | None:
        return AnsweringTask()

    def loss(self, model: Any, batch: Batch, *, key: jax.Array | None, cache: Cache | None) -> Loss:
        scores, out = self.scores(model, batch, key)  # [B, T, 2]
        real = (batch["segment_ids"] > 0)[..., None]
        low = jnp.finfo(scores.dtype).min  # not -inf: a row may be nothing but padding
        scores = jnp.where(real, scores, low)
        places = jnp.stack([batch["start"], batch["end"]], -1)  # [B, 2]
        log_probs = jax.nn.log_softmax(scores, axis=1)
        nll = -jnp.take_along_axis(log_probs, places[:, None], 1)[:, 0].mean(-1)  # [B]
        right = (scores.argmax(1) == places).all(-1)
        return summed(nll, batch["example_weights"], {"loss": nll, "accuracy": right}, out, cache)
