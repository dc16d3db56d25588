"""The bases of heads that score the features of a bag (`jaxlm.nn.bags`).

A head that is counted has two tables: the weight of each feature in the texts of each class [F, C],
and the number of texts of each class [C]. The objective adds each text once, whatever the number of
epochs (`jaxlm.objectives.base_counted`).

    log p(c, x) = log (n_c / n) + log p(x | c)

Features that no training text has are left out of a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import UserError, field
from jaxlm.nn.bags import Bag
from jaxlm.nn.heads.base import TaskHead, TaskHeadConfig

LEAST = -1e9  # the logarithm of 0


@dataclass(frozen=True, kw_only=True)
class BagHeadConfig(TaskHeadConfig, abstract=True):
    """The base of heads that score bags."""

    objective: ClassVar[str] = "classification"
    reads_bags: ClassVar[bool] = True


def apart(scores: jax.Array, known: jax.Array) -> jax.Array:
    """[F, C]: scores of features less their mean over classes; -inf where `known` [F] is false."""
    return jnp.where(known[:, None], scores - scores.mean(-1, keepdims=True), -jnp.inf)


def added(tables: dict[str, Any], bag: Bag, classes: jax.Array) -> dict[str, Any]:
    """Tables `counts` and `texts` with the texts of a batch added, of which `classes` [B, C] has 1
    at the class.
    """
    each = bag.weights[..., None] * classes[:, None]  # [B, K, C]
    return {
        **tables,
        "counts": tables["counts"].at[bag.ids].add(each),
        "texts": tables["texts"] + classes.sum(0),
    }


class BagHead(TaskHead):
    """Scores [B, C] of a `Bag`."""

    def strengths(self) -> jax.Array:
        """[F, C]: how much each feature speaks for each class; -inf where it was never seen."""
        raise NotImplementedError

    def predict(self, scores: jax.Array, segment_ids: jax.Array) -> Mapping[str, jax.Array]:
        """logits and probs [B, C]."""
        return {"logits": scores, "probs": jax.nn.softmax(scores)}


@dataclass(frozen=True, kw_only=True)
class CountedHeadConfig(BagHeadConfig, abstract=True):
    """The base of heads that are counted."""

    is_counted: ClassVar[bool] = True
    tables: ClassVar[tuple[str, ...]] = ("counts", "texts")
    dropout: float = field(0.0, "counts have no dropout; leave it at 0", ge=0, lt=1)
    bias: bool = field(True, "texts are likelier of frequent classes; false: all are equal")
    alpha: float = field(1.0, "added to each count (Laplace: 1, Lidstone: less)", gt=0)

    def validate(self) -> None:
        if self.dropout:
            raise UserError("dropout: counts have none; leave it out")


class CountedHead(BagHead):
    """Tables of counts, and the joint log-probabilities of classes and texts."""

    def __init__(self, config: CountedHeadConfig, dim: int, num_labels: int) -> None:
        self.alpha, self.even = config.alpha, not config.bias
        self.counts = nnx.Param(jnp.zeros((dim, num_labels)), axes=("buckets", "labels"))
        self.texts = nnx.Param(jnp.zeros(num_labels), axes=("labels",))

    def seen_as(self, bag: Bag) -> Bag:
        """The bag as it is counted and scored."""
        return bag

    def add(self, tables: dict[str, Any], bag: Bag, classes: jax.Array) -> dict[str, Any]:
        """The tables with texts added.

        classes: [B, C], 1 at the class of each text; 0 in a row that does not count.
        """
        return added(tables, self.seen_as(bag), classes)

    def log_prior(self) -> jax.Array:
        """log p(c) [C]; uniform before anything is counted."""
        texts = self.texts[...]
        uniform = jnp.full(texts.shape, -jnp.log(len(texts)))
        found = jnp.maximum(jnp.log(texts / jnp.maximum(texts.sum(), 1)), LEAST)
        return uniform if self.even else jnp.where(texts.sum() > 0, found, uniform)

    def known(self) -> jax.Array:
        """[F] bool: the features that some training text has."""
        return self.counts[...].sum(-1) > 0

    def __call__(
        self, model: Any, hidden: Any, segment_ids: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """log p(c, x) [B, C] float32; `hidden` is a `Bag`."""
        bag = self.seen_as(hidden)
        counts = self.counts[...][bag.ids]  # [B, K, C]
        weights = jnp.where(counts.sum(-1) > 0, bag.weights, 0.0)
        return self.log_prior() + self.log_likelihood(counts, weights)

    def log_likelihood(self, counts: jax.Array, weights: jax.Array) -> jax.Array:
        """log p(x | c) [B, C], from the counts [B, K, C] of features with weights [B, K]."""
        raise NotImplementedError
