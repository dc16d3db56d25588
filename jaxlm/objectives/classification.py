"""Classification: one class for a whole text (sentiment, topic).

A head beside the language model scores the classes (`jaxlm.nn.heads.classify`). The loss is the
mean cross-entropy over texts, or what the head minimises instead. An evaluation gives accuracy and
macro F1

    F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c),    macro F1 = mean over classes

and the confusion table (rows: true class, columns: predicted).

    objective: {type: classification, head: {pool: mean, dropout: 0.3}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.nn.heads.classify import Classify
from jaxlm.objectives.base import LOSS, Loss
from jaxlm.objectives.with_head import HeadObjective, summed
from jaxlm.tasks.base import Task
from jaxlm.tasks.classification import Classification as ClassificationTask

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache, ModelConfig

ACCURACY = Measure("accuracy", better="higher", show="headline", format=".1%")
MACRO_F1 = Measure("macro_f1", better="higher", show="headline", label="macro F1", format=".3f")
MAJORITY = Measure("majority_accuracy", label="accuracy of the largest class", format=".1%")
CONFUSION = Measure("confusion", show="table")


@dataclass(frozen=True, kw_only=True)
class Classification(HeadObjective):
    """Choose one class for a text."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, ACCURACY)

    classes: tuple[str, ...] = field((), "names of the classes; empty: those of the training data")
    head: TaskHeadConfig = field(Classify, "what scores the classes, beside the model")
    label_smoothing: float = field(
        0.0, "share of the target that is spread evenly over the classes", ge=0, lt=1
    )

    needs = ("tokens", "segment_ids", "positions", "labels", "example_weights")

    def resolve(self, prepared: Any, model: ModelConfig) -> Classification:
        return self.replace(classes=self.found_classes(prepared))

    def check_resolved(self) -> None:
        self.check_classes()

    @property
    def own_task(self) -> Task | None:
        return ClassificationTask(classes=self.classes) if len(self.classes) > 1 else None

    def loss(self, model: Any, batch: Batch, *, key: jax.Array | None, cache: Cache | None) -> Loss:
        scores, out = self.scores(model, batch, key)  # [B, C]
        labels, weights = batch["labels"], batch["example_weights"]
        num_classes = len(self.classes)
        onehot = jax.nn.one_hot(labels, num_classes)
        own, smooth = model.task_head.losses(scores, onehot), self.label_smoothing  # [B]
        losses = own
        if smooth:
            losses = model.task_head.losses(scores, (1 - smooth) * onehot + smooth / num_classes)
        predicted = scores.argmax(-1)
        confusion = jnp.einsum(
            "bc,bp,b->cp", onehot, jax.nn.one_hot(predicted, num_classes), weights
        )
        found = summed(losses, weights, {"loss": own, "accuracy": predicted == labels}, out, cache)
        return found._replace(metrics={**found.metrics, "confusion": (confusion, found.weight)})

    def measures(self, sums: Mapping[str, tuple[Any, Any]]) -> list[Measure]:
        table = np.asarray(sums["confusion"][0], np.float64)
        found = super().measures({k: v for k, v in sums.items() if k != "confusion"})
        f1 = np.mean(2 * np.diag(table) / np.maximum(table.sum(0) + table.sum(1), 1e-9))
        majority = table.sum(1).max() / max(table.sum(), 1e-9)
        counts = table.round().astype(int).tolist()
        return [
            *found,
            MACRO_F1.of(float(f1)),
            MAJORITY.of(float(majority)),
            CONFUSION.of({"classes": list(self.classes), "table": counts}),
        ]
