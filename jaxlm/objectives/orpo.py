"""Odds-ratio preference optimization (Hong et al. 2024, arXiv:2403.07691): no reference model.

With the mean log-probability l of an answer's tokens and log odds(l) = l - log(1 - exp l),

    loss = -l_chosen - weight log sigmoid(log odds(l_chosen) - log odds(l_rejected))

as a mean over pairs: each chosen answer counts equally, however long it is. (TRL takes the first
term as a mean over all tokens of a batch, prompts among them.) The reward of an answer is weight l.

    objective: {type: orpo, weight: 0.1}
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid

from jaxlm.core.config import field
from jaxlm.objectives.base_pairs import PairObjective, Pairs, Scored

LEAST = 1e-7  # the least 1 - p, so that the odds are finite in float32


@dataclass(frozen=True, kw_only=True)
class ORPO(PairObjective):
    """Learn chosen answers, and their odds over rejected ones."""

    weight: float = field(0.1, "weight of the log odds ratio (lambda)", ge=0)

    def pair_loss(self, pairs: Pairs, reference: Pairs | None) -> Scored:
        chosen, rejected = pairs.means
        loss = -chosen + self.weight * odds_ratio_loss(chosen, rejected)
        return Scored(loss, self.weight * chosen, self.weight * rejected)


def odds_ratio_loss(chosen: jax.Array, rejected: jax.Array) -> jax.Array:
    """-log sigmoid of the log odds ratio of mean log-probabilities (below 0), of each pair."""
    return -log_sigmoid(log_odds(chosen) - log_odds(rejected))


def log_odds(log_p: jax.Array) -> jax.Array:
    """log(p / (1 - p)) from log p; exact to float32 near p = 0 and p = 1."""
    log_p = jnp.minimum(log_p, -LEAST)
    near_one = log_p > -0.6931472
    # the branch that is not taken gets a value whose gradient is finite
    high = jnp.log(-jnp.expm1(jnp.where(near_one, log_p, -1.0)))
    low = jnp.log1p(-jnp.exp(jnp.where(near_one, -1.0, log_p)))
    return log_p - jnp.where(near_one, high, low)
