"""Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306): answers that are
desirable or not, without pairs.

With D = log p(y | x) in the model less that in the frozen reference, as a sum over y's tokens,

    z    = max(0, mean_i D(x_i, y_{i - 1}))           over the whole batch of a step, no gradient
    loss = desirable_weight (1 - sigmoid(beta (D - z)))       of a desirable answer
           undesirable_weight (1 - sigmoid(beta (z - D)))     of another

as a mean over answers. The mismatched pairs of z are the batch's own: each prompt with the answer
before it in the order of rows and segments, the first with the last one. They fill rows as the
answers do, and what a row has no room for is cut.

z is computed once a step, of all its rows and without dropout: accumulation does not change it. It
does depend on which answers are in a batch, so `train.batch_size` is a setting of the loss, and
`eval.batch_size` one of the evaluation: two answers at least, better many. A batch of one answer,
such as the last one of a split, has no mismatched pair, and z is 0.

    objective: {type: kto, beta: 0.1}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from jaxlm import mesh as meshes
from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.objectives.base import LOSS, FrozenModel, Loss, Transform
from jaxlm.objectives.base_pairs import AnswerObjective, read
from jaxlm.objectives.prediction import PREDICTED, shifted
from jaxlm.objectives.rotated import rotated
from jaxlm.objectives.segments import segment_sums, target_log_probs

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache, LanguageModel, Tokenizer

CHOSEN = Measure("reward_desirable", better="higher", label="reward of desirable", format=".3f")
REJECTED = Measure(
    "reward_undesirable", better="lower", label="reward of undesirable", format=".3f"
)
ACCURACY = Measure(
    "accuracy", better="higher", show="headline", label="rewards on their side of z", format=".1%"
)
KL = Measure("kl", label="z", format=".3f")


@dataclass(frozen=True, kw_only=True)
class KTO(AnswerObjective):
    """Learn from answers that are desirable or not."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, ACCURACY, CHOSEN, REJECTED, KL)
    least_rows: ClassVar[int] = 2

    beta: float = field(0.1, "how close the model stays to the reference", gt=0)
    desirable_weight: float = field(1.0, "weight of a desirable answer", ge=0)
    undesirable_weight: float = field(1.0, "weight of one that is not", ge=0)
    reference: FrozenModel = field(FrozenModel, "the frozen model that rewards are relative to")

    needs = ("tokens", "segment_ids", "positions", "loss_weights", "desirable")

    @property
    def references(self) -> Mapping[str, FrozenModel]:
        return {"reference": self.reference}

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        return lambda row, index: {**shifted(row), "desirable": row["desirable"][:-1]}

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        return RowSpec({**PREDICTED, "desirable": Entry(("T",))}, T=rows.sizes["T"] - 1)

    def over_batch(
        self, model: LanguageModel, beside: Mapping[str, Any], batch: Batch, *, parts: int = 1
    ) -> Batch:
        def sums(rows: Batch) -> tuple[jax.Array, jax.Array]:
            """The sum of D, and the number of answers."""
            own, known = (
                target_log_probs(m, rows, read(m, rows).hidden)
                for m in (model, beside["reference"])
            )
            return ((own - known) * rows["loss_weights"]).sum(), _answers(rows)

        other = rotated(batch)
        if parts == 1:
            total, answers = sums(other)
        else:
            cut = {name: meshes.cut_rows(x, parts) for name, x in other.items()}
            total, answers = (x.sum() for x in jax.lax.map(sums, cut))
        z = jnp.maximum(total / jnp.maximum(answers, 1), 0.0)
        z = jax.lax.stop_gradient(jnp.where(_answers(batch) > 1, z, 0.0))
        return {**batch, "z": jnp.full(len(batch["tokens"]), z)}

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
        weights, segments = batch["loss_weights"], batch["segment_ids"]
        reference = beside["reference"]
        known = target_log_probs(reference, batch, read(reference, batch).hidden)
        counts = segment_sums(weights, segments)  # [B, S]
        marks = segment_sums((batch["desirable"] == 1) * weights, segments)
        real, good = (counts > 0).astype(jnp.float32), marks > 0
        z = batch["z"][:, None]

        own = target_log_probs(model, batch, out.hidden)
        d = segment_sums((own - jax.lax.stop_gradient(known)) * weights, segments)
        loss = kto_loss(
            d,
            good,
            z,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        loss_sum = (loss * real).sum()
        total, reward = real.sum(), self.beta * d
        right = jnp.where(good, d > z, d < z)
        desirable, undesirable = real * good, real * ~good
        metrics = {
            "loss": ((loss * real).sum(), total),
            "accuracy": ((right * real).sum(), total),
            "reward_desirable": ((reward * desirable).sum(), desirable.sum()),
            "reward_undesirable": ((reward * undesirable).sum(), undesirable.sum()),
            "kl": ((z * real).sum(), total),
        }
        metrics = jax.lax.stop_gradient(metrics)
        for name, by_row in out.losses.items():
            metrics[name] = ((by_row * real.sum(-1)).sum(), total)
            loss_sum += metrics[name][0]
        return Loss(loss_sum, total, metrics, out.cache, out.load)


def _answers(batch: Batch) -> jax.Array:
    """The number of answers in a batch."""
    return (segment_sums(batch["loss_weights"], batch["segment_ids"]) > 0).sum()


def kto_loss(
    d: jax.Array,
    desirable: jax.Array,
    z: jax.Array,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> jax.Array:
    """The loss of each answer, as the module's docstring gives it; desirable: bool."""
    good = desirable_weight * (1 - sigmoid(beta * (d - z)))
    return jnp.where(desirable, good, undesirable_weight * (1 - sigmoid(beta * (z - d))))
