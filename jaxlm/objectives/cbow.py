"""Continuous bag of words: the mean of the words around predicts a word (Mikolov et al. 2013).

    model: {type: word_vectors, hidden_size: 100}
    objective: {type: cbow, window: 5, negatives: 5}
    optimizer: {type: sgd, learning_rate: 0.05, clip_norm: null, schedule: {type: linear}}

As in word2vec.c, the gradient of the mean is added to each of its words in full, not divided by
their number. The loss is a mean over predicted words; one without context is not predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxlm.nn.word_blocks import Targets
from jaxlm.objectives.base_windows import Windows

if TYPE_CHECKING:
    from jaxlm.nn.word_blocks import Block


@dataclass(frozen=True, kw_only=True)
class CBOW(Windows, type="cbow"):
    """The words around predict each word."""

    def inputs(self, block: Block) -> jax.Array:
        return self._rows(block.words, block.subwords)

    def vectors(self, x: jax.Array, block: Block) -> jax.Array:
        """[B, S, D] the mean of each word's context, with the gradient of the sum."""
        pairs = block.pairs(inputs="all")
        total = jnp.einsum("bsh,bhd->bsd", pairs, x, precision="highest")
        mean = total / jnp.maximum(pairs.sum(-1), 1)[..., None]
        return total + jax.lax.stop_gradient(mean - total)

    def targets(self, block: Block) -> Targets:
        has_context = (block.pairs(inputs="all").sum(-1) > 0).astype(jnp.float32)
        own = jnp.eye(block.size) * has_context[:, :, None]  # [B, S, S]
        if self.softmax == "hierarchical":
            return self._paths_of(block, own)
        assert block.negatives is not None
        words = block.own(block.words)
        return Targets(
            ids=jnp.concatenate([words, block.negatives], axis=1),
            weights=jnp.concatenate([own, self._sampled(block, own, words)], axis=2),
            labels=jnp.arange(block.size + self.pool) < block.size,
            num=has_context.sum(),
        )

    def _paths_of(self, block: Block, own: jax.Array) -> Targets:
        assert block.nodes is not None and block.signs is not None
        nodes, signs = block.own(block.nodes), block.own(block.signs)
        rows = len(nodes)
        weights = jnp.einsum("bst,btl->bstl", own, (signs != 0).astype(jnp.float32))
        return Targets(
            ids=nodes.reshape(rows, -1),
            weights=weights.reshape(rows, block.size, -1),
            labels=(signs > 0).reshape(rows, 1, -1),
            num=own.sum(),
        )
