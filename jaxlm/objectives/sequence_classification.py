"""Sequence classification: one class for a whole text (sentiment, topic).

The hidden states of a pretrained language model are pooled over the text and a linear layer scores
the classes (Radford et al. 2018 for the last token; Howard and Ruder 2018, arXiv:1801.06146, for
recurrent models). The loss is the mean cross-entropy over texts. Evaluation gives accuracy, macro
F1

    F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c),    macro F1 = mean over classes

and the confusion table (rows: true class, columns: predicted).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm.core.config import UserError, field
from jaxlm.nn.dropout import dropout, split_key
from jaxlm.objectives.base import Loss, Objective, Shapes, Transform, shapes_of

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache, ModelConfig, Tokenizer


class SequenceClassifier(nnx.Module):
    """A language model's backbone, a pool over the text and a linear score for each class."""

    def __init__(
        self, model: ModelConfig, num_classes: int, pool: str, rate: float, *, rngs: nnx.Rngs
    ):
        self.config = model
        self.backbone = model.build(model.vocab_size, rngs=rngs)
        scale = model.output_size**-0.5
        kernel = scale * jax.random.normal(rngs.params(), (model.output_size, num_classes))
        self.kernel = nnx.Param(kernel, axes=("embed", "labels"))  # [D, C]
        self.bias = nnx.Param(jnp.zeros(num_classes), axes=("labels",))
        self.pool, self.rate = pool, rate

    def __call__(self, tokens: Any, *, positions: Any, segment_ids: Any, key: Any = None) -> Any:
        """Scores of the classes [B, C], float32; and the backbone's `Output`."""
        keys = split_key(key, 2)
        out = self.backbone(tokens, positions=positions, segment_ids=segment_ids, key=keys[0])
        hidden = out.hidden.astype(jnp.float32)  # [B, T, D]
        pooled = POOLS[self.pool](hidden, segment_ids > 0)  # [B, D]
        pooled = dropout(pooled, self.rate, keys[1])
        return pooled @ self.kernel[...] + self.bias[...], out

    def adjust(self, load: Any) -> None:
        self.backbone.adjust(load)

    def flops_per_token(self, seq_len: int, *, causal: bool = True) -> float:
        return self.backbone.flops_per_token(seq_len, causal=causal)


def _last(hidden: jax.Array, real: jax.Array) -> jax.Array:
    last = jnp.maximum(real.sum(-1) - 1, 0)  # rows are padded on the right
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def _mean(hidden: jax.Array, real: jax.Array) -> jax.Array:
    weights = real.astype(hidden.dtype)[..., None]
    return (hidden * weights).sum(1) / jnp.maximum(weights.sum(1), 1)


POOLS = {"last": _last, "mean": _mean}


@dataclass(frozen=True, kw_only=True)
class SequenceClassification(Objective):
    """Choose one class for a text."""

    classes: tuple[str, ...] = field((), "names of the classes; empty: those of the training data")
    pool: Literal["last", "mean"] = field("mean", "how hidden states become one vector")
    dropout: float = field(0.1, "dropout on the pooled vector", ge=0, lt=1)
    label_smoothing: float = field(
        0.0, "share of the target given to all classes alike", ge=0, lt=1
    )

    @property
    def row_kind(self) -> str:
        return "examples"

    def resolve(self, prepared: Any, model: ModelConfig) -> SequenceClassification:
        found = prepared.classes
        if self.classes and self.classes != found:
            raise UserError(
                f"objective.classes: {list(self.classes)} but the data has {list(found)}; "
                "set the same names in the same order, or leave it empty"
            )
        return self.replace(classes=found)

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> SequenceClassifier:
        return SequenceClassifier(model, len(self.classes), self.pool, self.dropout, rngs=rngs)

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            return {
                "tokens": row["tokens"],
                "segment_ids": row["segment_ids"],
                "positions": row["positions"],
                "labels": np.int32(row["label"]),
                "example_weights": np.float32(row["weight"]),
            }

        return transform

    def batch_shapes(self, batch_size: int, seq_len: int) -> Shapes:
        keys = ("tokens", "segment_ids", "positions")
        return shapes_of(
            batch_size,
            int32={**dict.fromkeys(keys, (seq_len,)), "labels": ()},
            float32={"example_weights": ()},
        )

    def loss(self, model: Any, batch: Batch, *, key: jax.Array | None, cache: Cache | None) -> Loss:
        scores, out = model(
            batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"], key=key
        )  # [B, C]
        labels, weights = batch["labels"], batch["example_weights"]
        num_classes = len(self.classes)
        onehot = jax.nn.one_hot(labels, num_classes)
        log_probs = jax.nn.log_softmax(scores)
        nll = -(onehot * log_probs).sum(-1)  # [B]
        smooth = self.label_smoothing
        losses = (1 - smooth) * nll - smooth * log_probs.mean(-1)
        predicted = scores.argmax(-1)
        confusion = jnp.einsum(
            "bc,bp,b->cp", onehot, jax.nn.one_hot(predicted, num_classes), weights
        )
        weight = weights.sum()
        metrics = {
            "loss": ((nll * weights).sum(), weight),
            "accuracy": (((predicted == labels) * weights).sum(), weight),
            "confusion": (confusion, weight),
        }
        loss_sum = (losses * weights).sum()
        for name, by_row in out.losses.items():
            metrics[name] = ((by_row * weights).sum(), weight)
            loss_sum += metrics[name][0]
        return Loss(loss_sum, weight, metrics, cache, out.load)

    def pretrained_path(self, path: str) -> str | None:
        head, _, rest = path.partition("/")
        return rest if head == "backbone" else None

    def summarize(self, metrics: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
        table = np.asarray(metrics["confusion"][0], np.float64)
        values = super().summarize({k: v for k, v in metrics.items() if k != "confusion"})
        hits = np.diag(table)
        values["macro_f1"] = float(
            np.mean(2 * hits / np.maximum(table.sum(0) + table.sum(1), 1e-9))
        )
        values["majority_accuracy"] = float(table.sum(1).max() / max(table.sum(), 1e-9))
        return values

    def tables(self, metrics: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        table = np.asarray(metrics["confusion"][0]).round().astype(int).tolist()
        return {"confusion": {"classes": list(self.classes), "table": table}}
