"""The head of the recurrent models: the transposed embedding or a kernel of its own, and a bias.

A model that derives from `WithHead` has an `embed` and an `unembed`, and a config with
`tie_embeddings`, `initializer_range`, `logit_softcap` and `dtype`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels import cross_entropy
from jaxlm.kernels.cross_entropy import HeadParams, TokenLoss
from jaxlm.kernels.head_loss import token_loss
from jaxlm.mesh import shard
from jaxlm.nn.dense import Dense
from jaxlm.nn.embed import Embedding


class WithHead(nnx.Module):
    """The head of a `jaxlm.core.types.LanguageModel`, applied after its last layer."""

    config: Any
    embed: Embedding
    unembed: Unembed

    def head_input(self, hidden: jax.Array) -> jax.Array:
        return hidden

    @jax.named_scope("head")
    def head(self) -> HeadParams:
        """The kernel [D, V] in the compute dtype, not yet gathered, the bias and the soft cap."""
        own, dtype = self.unembed.kernel, self.config.dtype
        return HeadParams(
            self.embed.attend() if own is None else own.get_value().astype(dtype),
            bias=self.unembed.bias.get_value(),
            softcap=self.config.logit_softcap,
            tied=own is None,
        )

    def logits(self, hidden: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, V]
        """Float32 logits."""
        logits = cross_entropy.logits(hidden, self.head().gathered())
        return shard(logits, "batch", "length", "act_vocab")

    def token_loss(self, hidden: jax.Array, targets: jax.Array) -> TokenLoss:
        """The loss of each target [B, T], without a gradient."""
        return token_loss(self.head_input(hidden), self.head(), targets)


class Unembed(nnx.Module):
    """The head's parameters: a bias [V] and, where it is not tied, a kernel [D, V]."""

    def __init__(self, config: Any, dim: int, vocab_size: int, *, rngs: nnx.Rngs) -> None:
        self.size = dim * vocab_size
        if config.tie_embeddings:
            self.kernel = None
        else:
            std = config.initializer_range
            self.kernel = Dense({"embed": dim}, {"vocab": vocab_size}, std=std, rngs=rngs).kernel
        self.bias = nnx.Param(jnp.zeros((vocab_size,), jnp.float32), axes=("vocab",))

    def matmul_flops(self) -> float:
        """The head's product counts whether its kernel is tied or not (`jaxlm.nn.flops`)."""
        return 2.0 * self.size
