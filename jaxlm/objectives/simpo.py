"""Simple preference optimization (Meng et al. 2024, arXiv:2405.14734): no reference model.

With the mean log-probability l of an answer's tokens,

    loss = -log sigmoid(beta l_chosen - beta l_rejected - gamma)

The reward of an answer is beta l.

    objective: {type: simpo, beta: 2.0, gamma: 1.0}
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
from jax.nn import log_sigmoid

from jaxlm.core.config import field
from jaxlm.objectives.base_pairs import PairObjective, Pairs, Scored


@dataclass(frozen=True, kw_only=True)
class SimPO(PairObjective):
    """Prefer chosen answers by their mean log-probability."""

    beta: float = field(2.0, "scale of the rewards", gt=0)
    gamma: float = field(1.0, "margin by which a chosen answer's reward should be larger", ge=0)

    def pair_loss(self, pairs: Pairs, reference: Pairs | None) -> Scored:
        chosen, rejected = pairs.means
        loss = simpo_loss(chosen, rejected, beta=self.beta, gamma=self.gamma)
        return Scored(loss, self.beta * chosen, self.beta * rejected)


def simpo_loss(chosen: jax.Array, rejected: jax.Array, *, beta: float, gamma: float) -> jax.Array:
    """The loss of each pair of mean log-probabilities, as the module's docstring gives it."""
    return -log_sigmoid(beta * (chosen - rejected) - gamma)
