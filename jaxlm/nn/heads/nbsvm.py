"""NBSVM: a linear support vector machine over features that are scaled by naive Bayes' log-count
ratios (Wang and Manning 2012).

    r_cf = log (p_cf / |p_c|) - log (q_cf / |q_c|)
    p_cf = alpha + texts of class c that have f           q_cf = alpha + texts of others that have f
    s_c  = sum over f of a text: r_cf w_cf + b_c

minimised for each class c against the others, with y = 1 in the texts of c, else -1, of n texts:

    mean over texts of max(0, 1 - y s_c)^2 + (|w_c|^2 + b_c^2) / (2 C n)

the objective of scikit-learn's `LinearSVC(C=C)` divided by C n. After training

    w'_cf = (1 - beta) mean_f |w_cf| + beta w_cf

takes the place of w: between naive Bayes (beta 0) and the machine (beta 1). The ratios are counted
in the first pass over the records.

    objective: {type: counted_first, head: {type: nbsvm, C: 1.0, beta: 0.25}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import field
from jaxlm.nn.bags import Bag
from jaxlm.nn.dropout import dropout
from jaxlm.nn.heads.base_bag import BagHead, BagHeadConfig, added, apart


@dataclass(frozen=True, kw_only=True)
class NBSVM(BagHeadConfig, type="nbsvm"):
    """A support vector machine over log-count ratios."""

    tables: ClassVar[tuple[str, ...]] = ("counts", "texts")

    dropout: float = field(0.0, "dropout of features", ge=0, lt=1)
    alpha: float = field(1.0, "added to each count", gt=0)
    C: float = field(1.0, "the weight of the texts' losses beside the squares of the weights", gt=0)
    beta: float = field(0.25, "share of the machine's weights beside their mean size", ge=0, le=1)

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> NBSVMHead:
        return NBSVMHead(self, dim, num_labels)


class NBSVMHead(BagHead):
    """Tables of counts [F, C], [C]; the machine's weights [F, C], and a bias."""

    def __init__(self, config: NBSVM, dim: int, num_labels: int) -> None:
        zeros = jnp.zeros((dim, num_labels))
        self.counts = nnx.Param(zeros, axes=("buckets", "labels"))
        self.texts = nnx.Param(jnp.zeros(num_labels), axes=("labels",))
        self.kernel = nnx.Param(zeros, axes=("buckets", "labels"))
        bias = jnp.zeros(num_labels)
        self.bias = nnx.Param(bias, axes=("labels",)) if config.bias else None
        self.rate, self.alpha, self.beta, self.C = (
            config.dropout,
            config.alpha,
            config.beta,
            config.C,
        )

    def add(self, tables: dict[str, Any], bag: Bag, classes: jax.Array) -> dict[str, Any]:
        """The tables with texts added; `classes` [B, C] has 1 at the class of each text."""
        return added(tables, bag.binary(), classes)

    def ratios(self, counts: jax.Array) -> jax.Array:
        """r_cf [..., C] of features with these counts; 0 where no training text has the feature."""
        whole = self.counts[...]
        size = self.alpha * self.known().sum()
        inside, total = whole.sum(0) + size, whole.sum() + size
        others = counts.sum(-1, keepdims=True) - counts
        found = jnp.log((counts + self.alpha) / inside)
        found -= jnp.log((others + self.alpha) / (total - inside + size))
        return jnp.where(counts.sum(-1, keepdims=True) > 0, found, 0.0)

    def known(self) -> jax.Array:
        """[F] bool: the features that some training text has."""
        return self.counts[...].sum(-1) > 0

    def __call__(
        self, model: Any, hidden: Any, segment_ids: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Scores [B, C] float32, by w with `key` (in training), else by w'."""
        bag = hidden.binary()
        weights = dropout(bag.weights, self.rate, key)
        kernel = self.kernel[...][bag.ids]
        if key is None:
            kernel = self._between(kernel)
        ratios = jax.lax.stop_gradient(self.ratios(self.counts[...][bag.ids]))
        scores = jnp.einsum("bkc,bkc,bk->bc", ratios, kernel, weights)
        return scores if self.bias is None else scores + self.bias[...]

    def losses(self, scores: jax.Array, targets: jax.Array) -> jax.Array:
        """The squared hinges of all classes."""
        return jnp.square(jnp.maximum(0.0, 1 - (2 * targets - 1) * scores)).sum(-1)

    def penalties(self) -> Mapping[str, jax.Array]:
        """l2: the squares of the weights and of the bias, over 2 C n."""
        squares = jnp.square(self.kernel[...]).sum()
        if self.bias is not None:
            squares += jnp.square(self.bias[...]).sum()
        texts = jnp.maximum(jax.lax.stop_gradient(self.texts[...]).sum(), 1)
        return {"l2": squares / (2 * self.C * texts)}

    def strengths(self) -> jax.Array:
        return apart(self.ratios(self.counts[...]) * self._between(self.kernel[...]), self.known())

    def _between(self, kernel: jax.Array) -> jax.Array:
        """w' of weights w [..., C]."""
        mean = jnp.abs(self.kernel[...]).sum(0) / jnp.maximum(self.known().sum(), 1)
        return (1 - self.beta) * mean + self.beta * kernel
