"""The base of objectives that learn from pairs of answers (`jaxlm.tasks.preference`).

In a batch, pair k of a row is its segments 2k - 1 (chosen) and 2k (rejected), each with positions
of its own, so neither sees the other, nor another pair of a packed row. With w_t the loss weights,
for each side

    s = sum_t w_t log p(y_t | x, y_<t)        n = sum_t w_t

and a loss is a function of these for both sides, in the model and in the reference. The batch's
loss is the mean over pairs: a sum with the number of pairs as its weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.core.config import UserError, type_name
from jaxlm.core.measures import Measure
from jaxlm.core.rows import RowSpec
from jaxlm.nn.embedding_noise import plain_embeddings
from jaxlm.objectives.base import LOSS, Loss, Objective, Transform
from jaxlm.objectives.prediction import PREDICTED, shifted
from jaxlm.objectives.segments import segment_sums, target_log_probs

if TYPE_CHECKING:
    from flax import nnx

    from jaxlm.core.types import Batch, Cache, LanguageModel, ModelConfig, Output, Tokenizer

ACCURACY = Measure(
    "accuracy", better="higher", show="headline", label="chosen above rejected", format=".1%"
)
MARGIN = Measure("margin", better="higher", format=".3f")
CHOSEN = Measure("reward_chosen", better="higher", label="reward of chosen", format=".3f")
REJECTED = Measure("reward_rejected", better="lower", label="reward of rejected", format=".3f")


class Pairs(NamedTuple):
    """[B, P] float32 each: sums of weighted log-probabilities, and of weights."""

    chosen: jax.Array
    rejected: jax.Array
    num_chosen: jax.Array
    num_rejected: jax.Array

    @property
    def means(self) -> tuple[jax.Array, jax.Array]:
        """The mean log-probability of a token, of each side."""
        few = lambda n: jnp.where(n > 0, n, 1.0)  # noqa: E731
        return self.chosen / few(self.num_chosen), self.rejected / few(self.num_rejected)


class Scored(NamedTuple):
    """[B, P] each: the loss of a pair, and what its sides are rewarded with."""

    loss: jax.Array
    chosen: jax.Array
    rejected: jax.Array


@dataclass(frozen=True, kw_only=True)
class AnswerObjective(Objective, abstract=True):
    """The base of objectives that learn from log-probabilities of answers, given by a decoder."""

    def why_silent(self, model: ModelConfig) -> str | None:
        return None

    def check_model(self, model: ModelConfig) -> None:
        check_decoder(self, model)

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
        return model.build(model.vocab_size, rngs=rngs)


@dataclass(frozen=True, kw_only=True)
class PairObjective(AnswerObjective, abstract=True):
    """The base of objectives that compare log-probabilities of pairs; `pair_loss` says how."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, ACCURACY, MARGIN, CHOSEN, REJECTED)

    needs = ("tokens", "segment_ids", "positions", "loss_weights", "sides")

    def pair_loss(self, pairs: Pairs, reference: Pairs | None) -> Scored:
        """The loss of each pair, and its rewards (traceable). reference: of the frozen model, where
        `references` has one.
        """
        raise NotImplementedError

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        return lambda row, index: shifted(split_sides(row))

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        return RowSpec(PREDICTED, T=rows.sizes["T"] - 1)

    def loss_beside(
        self,
        model: LanguageModel,
        beside: Mapping[str, Any],
        batch: Batch,
        *,
        key: jax.Array | None,
        cache: Cache | None,
    ) -> Loss:
        out = read(model, batch, key)
        reference = None
        if other := next(iter(beside.values()), None):
            known = target_log_probs(other, batch, read(other, batch).hidden)
            reference = pairs_of(jax.lax.stop_gradient(known), batch)
        pairs = pairs_of(target_log_probs(model, batch, out.hidden), batch)
        weight = ((pairs.num_chosen > 0) & (pairs.num_rejected > 0)).astype(jnp.float32)  # [B, P]
        scored = self.pair_loss(pairs, reference)
        loss_sum = jnp.where(weight > 0, scored.loss, 0.0).sum()
        return pair_sums(loss_sum, scored, weight, out)


def pair_sums(loss_sum: jax.Array, scored: Scored, weight: jax.Array, out: Output) -> Loss:
    """The sums of a batch over pairs; weight [B, P] is 1 for a pair, 0 for none."""
    values = {
        "loss": scored.loss,
        "accuracy": (scored.chosen > scored.rejected).astype(jnp.float32),
        "margin": scored.chosen - scored.rejected,
        "reward_chosen": scored.chosen,
        "reward_rejected": scored.rejected,
    }
    total = weight.sum()
    metrics = {k: (jnp.where(weight > 0, v, 0.0).sum(), total) for k, v in values.items()}
    metrics = jax.lax.stop_gradient(metrics)
    for name, by_row in out.losses.items():
        metrics[name] = ((by_row * weight.sum(-1)).sum(), total)
        loss_sum += metrics[name][0]
    return Loss(loss_sum, total, metrics, out.cache, out.load)


def pairs_of(values: jax.Array, batch: Batch) -> Pairs:
    """The sums over each side of values [B, T], weighted, and of the weights."""
    weights, segments = batch["loss_weights"], batch["segment_ids"]
    sums, counts = (segment_sums(x, segments) for x in (values * weights, weights))
    even = sums.shape[1] // 2 * 2
    chosen, rejected = sums[:, 0:even:2], sums[:, 1:even:2]
    return Pairs(chosen, rejected, counts[:, 0:even:2], counts[:, 1:even:2])


def read(model: LanguageModel, batch: Batch, key: jax.Array | None = None) -> Output:
    """The model's output for the tokens of a batch; `key` switches dropout and noise on."""
    with nullcontext() if key is not None else plain_embeddings():
        return model(
            batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"], key=key
        )


def check_decoder(objective: Objective, model: ModelConfig) -> None:
    """Raises `UserError` for a model that gives no log-probabilities of a text's tokens."""
    name = type_name(type(objective))
    if model.sees_ahead:
        raise UserError(
            f"objective: {name} needs the probability of each token after those before it, but "
            "this model sees the next ones; set model.attention.is_causal to true"
        )
    if model.is_encoder_decoder:
        raise UserError(
            f"objective: {name} has no source text for the model's encoder; use a model without one"
        )


# ------------------------------------------------------------------------------------- on the host


def split_sides(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row [T + 1] whose segments are pairs, as one whose segments are their sides."""
    pair, side = row["segment_ids"], row["sides"]
    segments = np.where(pair > 0, 2 * pair - 2 + side, 0).astype(np.int32)
    places = np.arange(len(segments))
    begins = np.diff(segments, prepend=-1) != 0
    positions = places - np.maximum.accumulate(np.where(begins, places, 0))
    return {
        **{key: value for key, value in row.items() if key not in ("sides", "id")},
        "segment_ids": segments,
        "positions": np.where(segments > 0, positions, 0).astype(np.int32),
    }
