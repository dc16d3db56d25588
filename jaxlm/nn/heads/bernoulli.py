"""Bernoulli naive Bayes: a text of class c has each feature f with probability p_cf.

    log p(x | c) = sum over f: log p_cf if f is in the text, else log (1 - p_cf)
    p_cf = (n_cf + alpha) / (n_c + 2 alpha)

with n_cf of n_c texts of class c that have f (McCallum and Nigam 1998; scikit-learn's
`BernoulliNB`). The sum is over the features that any training text has.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.nn.bags import Bag
from jaxlm.nn.heads.base_bag import CountedHead, CountedHeadConfig, apart


@dataclass(frozen=True, kw_only=True)
class Bernoulli(CountedHeadConfig):
    """The texts of each class that have a feature, and those that do not."""

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> BernoulliHead:
        return BernoulliHead(self, dim, num_labels)


class BernoulliHead(CountedHead):
    """Tables of texts."""

    def seen_as(self, bag: Bag) -> Bag:
        return bag.binary()

    def log_likelihood(self, counts: jax.Array, weights: jax.Array) -> jax.Array:
        absent = jnp.log1p(-self._probs(self.counts[...]))  # [F, C]
        nothing = jnp.where(self.known()[:, None], absent, 0.0).sum(0)  # of a text without features
        probs = self._probs(counts)
        return nothing + (weights[..., None] * (jnp.log(probs) - jnp.log1p(-probs))).sum(1)

    def strengths(self) -> jax.Array:
        return apart(jnp.log(self._probs(self.counts[...])), self.known())

    def _probs(self, counts: jax.Array) -> jax.Array:
        """p_cf [..., C] of features with these counts."""
        return (counts + self.alpha) / (self.texts[...] + 2 * self.alpha)
