"""Tagging: a label for each word (parts of speech, named entities).

A head beside the language model scores the labels of every token (`jaxlm.nn.heads.tag`). The loss
is the mean cross-entropy over the tokens with a weight, the first of each word, as that of
transformers' token classification.

    objective: {type: tagging, head: {dropout: 0.1}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.nn.heads.tag import Tag
from jaxlm.objectives.base import LOSS, Loss
from jaxlm.objectives.with_head import HeadObjective, summed
from jaxlm.tasks.base import Task
from jaxlm.tasks.tagging import Tagging as TaggingTask

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache, ModelConfig

ACCURACY = Measure("accuracy", better="higher", show="headline", format=".1%")


@dataclass(frozen=True, kw_only=True)
class Tagging(HeadObjective):
    """Choose a label for each word."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, ACCURACY)

    classes: tuple[str, ...] = field((), "names of the labels; empty: those of the training data")
    head: TaskHeadConfig = field(Tag, "what scores the labels, beside the model")
    label_smoothing: float = field(
        0.0, "share of the target that is spread evenly over the labels", ge=0, lt=1
    )

    needs = ("tokens", "segment_ids", "positions", "targets", "loss_weights")

    def resolve(self, prepared: Any, model: ModelConfig) -> Tagging:
        return self.replace(classes=self.found_classes(prepared))

    def check_resolved(self) -> None:
        self.check_classes()

    @property
    def own_task(self) -> Task | None:
        return TaggingTask(classes=self.classes)

    def loss(self, model: Any, batch: Batch, *, key: jax.Array | None, cache: Cache | None) -> Loss:
        scores, out = self.scores(model, batch, key)  # [B, T, C]
        targets, smooth = batch["targets"], self.label_smoothing
        log_probs = jax.nn.log_softmax(scores)
        nll = -jnp.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
        losses = (1 - smooth) * nll - smooth * log_probs.mean(-1)
        metrics = {"loss": nll, "accuracy": scores.argmax(-1) == targets}
        return summed(losses, batch["loss_weights"], metrics, out, cache)

    def predict(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """logits and probs [B, T, C], and `learnt` [B, T], true at the first token of a word."""
        found = dict(super().predict(model, batch))
        if "loss_weights" in batch:
            found["learnt"] = batch["loss_weights"] > 0
        return found
