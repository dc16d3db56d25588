"""Shared code of objectives that predict tokens: the loss over the head, and its figures.

    loss = sum_t w_t (-log p(x_t | what is seen) + z_loss * logsumexp(logits)^2) / sum_t w_t

Label smoothing mixes the target with a uniform distribution (Szegedy et al. 2016,
arXiv:1512.00567); the z-loss keeps the softmax normaliser near 1 (Chowdhery et al. 2022,
arXiv:2204.02311, section 5). Loss, accuracy and perplexity are of the plain negative
log-likelihood of what is predicted. An objective says what the model is called with (`read`), and
which targets count: `targets` and `loss_weights` of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry
from jaxlm.kernels.head_loss import head_loss
from jaxlm.objectives.base import LOSS, Loss, Objective

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from jaxlm.core.types import Batch, Cache, LanguageModel, ModelConfig, Output

ACCURACY = Measure("accuracy", better="higher", format=".1%")
PERPLEXITY = Measure("perplexity", better="lower", format=".2f")

# What batches of every objective that predicts tokens have.
PREDICTED = {
    "tokens": Entry(("T",)),
    "targets": Entry(("T",)),
    "loss_weights": Entry(("T",), "float32"),
    "segment_ids": Entry(("T",)),
    "positions": Entry(("T",)),
}


@dataclass(frozen=True, kw_only=True)
class TokenPrediction(Objective, abstract=True):
    """The base of objectives that predict tokens."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, ACCURACY)

    label_smoothing: float = field(
        0.0, "share of the target that is spread evenly over the tokens", ge=0, lt=1
    )
    z_loss: float = field(0.0, "weight of the squared log of the softmax's normaliser", ge=0)

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
        return model.build(model.vocab_size, rngs=rngs)

    def read(
        self, model: LanguageModel, batch: Batch, key: jax.Array | None, cache: Cache | None
    ) -> Output:
        """The model's hidden states [B, T, D], from which `targets` are predicted."""
        return model(
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            cache=cache,
            key=key,
        )

    def loss(
        self, model: LanguageModel, batch: Batch, *, key: jax.Array | None, cache: Cache | None
    ) -> Loss:
        return self.predicted(model, self.read(model, batch, key, cache), batch)

    def predicted(self, model: LanguageModel, out: Output, batch: Batch) -> Loss:
        """The sums over one batch, from the model's output for it."""
        weights = batch["loss_weights"]  # [B, T]
        loss_sum, token = head_loss(
            model.head_input(out.hidden),  # [B, T, D]
            model.head(),
            batch["targets"],
            weights,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
        )
        weight = weights.sum()
        metrics = {
            "loss": ((token.nll * weights).sum(), weight),
            "accuracy": ((token.correct * weights).sum(), weight),
        }
        for name, by_row in out.losses.items():
            metrics[name] = ((by_row * weights.sum(-1)).sum(), weight)
            loss_sum += metrics[name][0]
        return Loss(loss_sum, weight, metrics, out.cache, out.load)

    def predict(self, model: LanguageModel, batch: Batch) -> Mapping[str, jax.Array]:
        """log_probs [B, T] of the targets, 0 where the target does not count."""
        out = self.read(model, batch, None, None)
        weights = batch["loss_weights"]
        _, token = head_loss(model.head_input(out.hidden), model.head(), batch["targets"], weights)
        return {"log_probs": jnp.where(weights > 0, -token.nll, 0.0)}

    def measures(self, sums: Mapping[str, tuple[Any, Any]]) -> list[Measure]:
        found = super().measures(sums)
        loss = next(m.value for m in found if m.name == LOSS.name)
        return [*found, PERPLEXITY.of(math.exp(min(loss, 700.0)))]


def shifted(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row [T + 1] of tokens as inputs, targets and weights [T] (on the host), or several rows
    [B, T + 1] as [B, T].

    A target counts where it belongs to the same document as its input, so no document is asked to
    predict the next one's start. Where the row has `loss_weights` [T + 1], each token counts by its
    own.
    """
    segments = row["segment_ids"]
    weights = ((segments[..., 1:] == segments[..., :-1]) & (segments[..., 1:] > 0)).astype(
        np.float32
    )
    if "loss_weights" in row:
        weights = (weights * row["loss_weights"][..., 1:]).astype(np.float32)
    return {
        "tokens": row["tokens"][..., :-1],
        "targets": row["tokens"][..., 1:],
        "loss_weights": weights,
        "segment_ids": segments[..., :-1],
        "positions": row["positions"][..., :-1],
    }
