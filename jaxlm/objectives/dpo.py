"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290).

With the sums s of an answer's log-probabilities in the model and r in the frozen reference, and
d = (s_chosen - r_chosen) - (s_rejected - r_rejected),

    sigmoid   -(1 - e) log sigmoid(beta d) - e log sigmoid(-beta d)             e: label_smoothing
    robust    (-(1 - e) log sigmoid(beta d) + e log sigmoid(-beta d)) / (1 - 2 e)
    hinge     max(0, 1 - beta d)
    ipo       (d' - 1 / (2 beta))^2        d': as d, of means over tokens instead of sums

label_smoothing makes the first one cDPO; "robust" is that of Chowdhury et al. 2024
(arXiv:2403.00409), "hinge" that of SLiC (arXiv:2305.10425), "ipo" that of Azar et al. 2023
(arXiv:2310.12036), whose authors confirmed the means. The reward of an answer is beta (s - r).

    objective: {type: dpo, beta: 0.1}

The reference is the weights that the run starts from. With an adapter it is the frozen base without
the adapter: there is no second copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
from jax.nn import log_sigmoid, relu

from jaxlm.core.config import UserError, field
from jaxlm.objectives.base import FrozenModel
from jaxlm.objectives.base_pairs import PairObjective, Pairs, Scored

LossType = Literal["sigmoid", "ipo", "hinge", "robust"]


@dataclass(frozen=True, kw_only=True)
class DPO(PairObjective):
    """Prefer chosen answers, near a frozen reference."""

    beta: float = field(0.1, "how close the model stays to the reference", gt=0)
    loss_type: LossType = field("sigmoid", "the loss of a pair")
    label_smoothing: float = field(
        0.0, "share of pairs whose sides are taken to be exchanged; of sigmoid and robust", ge=0
    )
    reference: FrozenModel = field(FrozenModel, "the frozen model that rewards are relative to")

    def validate(self) -> None:
        if self.label_smoothing >= 0.5:
            raise UserError(f"label_smoothing: {self.label_smoothing:g}; set it below 0.5")
        if self.label_smoothing and self.loss_type not in ("sigmoid", "robust"):
            raise UserError(
                f"label_smoothing: loss_type {self.loss_type} has none; set it to 0, or use "
                "sigmoid or robust"
            )

    @property
    def references(self) -> Mapping[str, FrozenModel]:
        return {"reference": self.reference}

    def pair_loss(self, pairs: Pairs, reference: Pairs | None) -> Scored:
        assert reference is not None
        own = pairs.means if self.loss_type == "ipo" else (pairs.chosen, pairs.rejected)
        other = (
            reference.means if self.loss_type == "ipo" else (reference.chosen, reference.rejected)
        )
        loss = dpo_loss(
            own[0] - other[0],
            own[1] - other[1],
            beta=self.beta,
            loss_type=self.loss_type,
            label_smoothing=self.label_smoothing,
        )
        chosen = self.beta * (pairs.chosen - reference.chosen)
        return Scored(loss, chosen, self.beta * (pairs.rejected - reference.rejected))


def dpo_loss(
    chosen: jax.Array,
    rejected: jax.Array,
    *,
    beta: float,
    loss_type: LossType = "sigmoid",
    label_smoothing: float = 0.0,
) -> jax.Array:
    """The loss of each pair, as the module's docstring gives it.

    chosen, rejected: log p of the model less that of the reference, as a sum over the answer's
    tokens; for "ipo" as a mean.
    """
    d, e = chosen - rejected, label_smoothing
    if loss_type == "ipo":
        return (d - 1 / (2 * beta)) ** 2
    if loss_type == "hinge":
        return relu(1 - beta * d)
    right, wrong = -log_sigmoid(beta * d), -log_sigmoid(-beta * d)
    if loss_type == "robust":
        return ((1 - e) * right - e * wrong) / (1 - 2 * e)
    return (1 - e) * right + e * wrong
