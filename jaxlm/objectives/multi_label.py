"""Multi-label classification: any number of classes for a text or a pair.

Each class is a yes or no by itself (`BCEWithLogitsLoss` of PyTorch, mean over classes and rows):

    loss = mean_c softplus(z_c) - y_c z_c

    objective: {type: multi_label, head: {pool: mean}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.nn.heads.classify import Classify
from jaxlm.objectives.base import LOSS, Loss
from jaxlm.objectives.with_head import HeadObjective, summed
from jaxlm.tasks.base import Task
from jaxlm.tasks.multi_label import MultiLabel as MultiLabelTask

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache, ModelConfig

EXACT = Measure("accuracy", better="higher", label="all classes right", format=".1%")


@dataclass(frozen=True, kw_only=True)
class MultiLabel(HeadObjective):
    """Choose any number of classes for a row."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, EXACT)

    classes: tuple[str, ...] = field((), "names of the classes; empty: those of the training data")
    head: TaskHeadConfig = field(Classify, "what scores the classes, beside the model")

    needs = ("tokens", "segment_ids", "positions", "labels", "example_weights")

    def resolve(self, prepared: Any, model: ModelConfig) -> MultiLabel:
        return self.replace(classes=self.found_classes(prepared))

    def check_resolved(self) -> None:
        self.check_classes()

    @property
    def own_task(self) -> Task | None:
        return MultiLabelTask(classes=self.classes)

    @property
    def several(self) -> bool:
        return True

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        spec = super().transform_spec(rows)
        labels = Entry((len(self.classes),), np.float32)
        return RowSpec({**spec, "labels": labels}, **spec.sizes)

    def loss(self, model: Any, batch: Batch, *, key: jax.Array | None, cache: Cache | None) -> Loss:
        scores, out = self.scores(model, batch, key)  # [B, C]
        labels = batch["labels"]
        losses = (jax.nn.softplus(scores) - labels * scores).mean(-1)  # [B]
        right = ((scores > 0) == (labels > 0)).all(-1)
        metrics = {"loss": losses, "accuracy": right}
        return summed(losses, batch["example_weights"], metrics, out, cache)

    def predict(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """logits and probs [B, C]; each probability is of its class alone."""
        scores, _ = self.scores(model, batch)
        return {"logits": scores, "probs": jax.nn.sigmoid(scores)}
