"""Skip-gram: the vector of each word predicts the words around it (Mikolov et al. 2013).

    model: {type: word_vectors, hidden_size: 100}
    objective: {type: skip_gram, window: 5, negatives: 5}
    optimizer: {type: sgd, learning_rate: 0.025, clip_norm: null, schedule: {type: linear}}

As in word2vec.c, the word in the context is the input and the word in the middle, whose radius
counts, is the target. The loss is a mean over pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp

from jaxlm.core.config import field
from jaxlm.nn.word_blocks import Targets
from jaxlm.objectives.base_windows import Windows

if TYPE_CHECKING:
    import jax

    from jaxlm.nn.word_blocks import Block


@dataclass(frozen=True, kw_only=True)
class SkipGram(Windows):
    """Each word predicts the words around it."""

    block: int = field(8, "words of a row whose updates are made together", ge=1)
    pool: int = field(56, "negatives drawn for the pairs of a block, which share them", ge=1)

    def inputs(self, block: Block) -> jax.Array:
        rows = self._rows(block.words, block.subwords)
        return block.own(rows) if self.softmax == "negative" else rows

    def targets(self, block: Block) -> Targets:
        return self._negative(block) if self.softmax == "negative" else self._paths_of(block)

    def _negative(self, block: Block) -> Targets:
        """Inputs are the S words of the block; targets are the H words around, and the pool."""
        assert block.negatives is not None
        pairs = block.pairs(inputs="own")
        sampled = self._sampled(block, pairs, block.words)
        return Targets(
            ids=jnp.concatenate([block.words, block.negatives], axis=1),
            weights=jnp.concatenate([pairs, sampled], axis=2),
            labels=jnp.arange(pairs.shape[2] + self.pool) < pairs.shape[2],
            num=pairs.sum(),
        )

    def _paths_of(self, block: Block) -> Targets:
        """Inputs are the H words around; targets are the nodes on the paths to the S words."""
        assert block.nodes is not None and block.signs is not None
        pairs = block.pairs(inputs="all")
        nodes, signs = block.own(block.nodes), block.own(block.signs)
        rows = len(nodes)
        on_path = (signs != 0).astype(jnp.float32)
        weights = jnp.einsum("bsh,bsl->bhsl", pairs, on_path)
        return Targets(
            ids=nodes.reshape(rows, -1),
            weights=weights.reshape(rows, weights.shape[1], -1),
            labels=(signs > 0).reshape(rows, 1, -1),
            num=pairs.sum(),
        )
