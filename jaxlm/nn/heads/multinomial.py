"""Multinomial naive Bayes: a text of class c draws each feature f with probability p_cf.

    log p(x | c) = sum over f: x_f log p_cf        p_cf = (N_cf + alpha) / (N_c + alpha V)

with N_cf the sum of the weights of f in the texts of class c, N_c their sum over f, and V the
features that any training text has (Manning, Raghavan and Schuetze 2008, chapter 13; scikit-learn's
`MultinomialNB`). Over binary bags it is the "binarised" form of Wang and Manning (2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.nn.heads.base_bag import CountedHead, CountedHeadConfig, apart


@dataclass(frozen=True, kw_only=True)
class Multinomial(CountedHeadConfig):
    """The occurrences of features in the texts of each class."""

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> MultinomialHead:
        return MultinomialHead(self, dim, num_labels)


class MultinomialHead(CountedHead):
    """Tables of occurrences."""

    def log_likelihood(self, counts: jax.Array, weights: jax.Array) -> jax.Array:
        return (weights[..., None] * self._log_probs(counts)).sum(1)

    def strengths(self) -> jax.Array:
        return apart(self._log_probs(self.counts[...]), self.known())

    def _log_probs(self, counts: jax.Array) -> jax.Array:
        """log p_cf [..., C] of features with these counts."""
        size = jnp.maximum(self.known().sum(), 1)
        whole = self.counts[...].sum(0) + self.alpha * size
        return jnp.log((counts + self.alpha) / whole)
