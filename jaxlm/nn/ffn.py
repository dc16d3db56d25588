"""The feed-forward part of a block: plain, down(act(up(x))), or gated, down(act(gate(x)) * up(x)).

    ffn = FeedForward(dim=256, hidden_dim=688, activation="swiglu", rngs=rngs)
    y = ffn(x)                   # [B, T, D] -> [B, T, D]

Gated variants: Shazeer 2020, "GLU Variants Improve Transformer". `gelu` is the exact one, x Phi(x);
`gelu_tanh` its approximation (Hendrycks & Gimpel 2016), which GPT-2 and Gemma use.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.mesh import shard
from jaxlm.nn.dense import Dense

# name -> (function, whether a gate is multiplied in)
ACTIVATIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], bool]] = {
    "gelu": (partial(jax.nn.gelu, approximate=False), False),
    "gelu_tanh": (partial(jax.nn.gelu, approximate=True), False),
    "relu": (jax.nn.relu, False),
    "silu": (jax.nn.silu, False),
    "swiglu": (jax.nn.silu, True),
    "geglu": (partial(jax.nn.gelu, approximate=False), True),
    "geglu_tanh": (partial(jax.nn.gelu, approximate=True), True),
}


def is_gated(activation: str) -> bool:
    return ACTIVATIONS[activation][1]


class FeedForward(nnx.Module):
    """`activation` is a key of `ACTIVATIONS`; `out_scale` multiplies the std of the last kernel."""

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        activation: str = "swiglu",
        bias: bool = False,
        std: float | None = None,
        out_scale: float = 1.0,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = activation
        embed, mlp = {"embed": dim}, {"mlp": hidden_dim}
        options = {"bias": bias, "std": std, "dtype": dtype, "rngs": rngs}
        self.gate = Dense(embed, mlp, **options) if is_gated(activation) else None
        self.up = Dense(embed, mlp, **options)
        self.down = Dense(mlp, embed, scale=out_scale, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        function, _ = ACTIVATIONS[self.activation]
        up = shard(self.up(x), "batch", "length", "act_mlp")
        if self.gate is None:
            return self.down(function(up))
        gate = shard(self.gate(x), "batch", "length", "act_mlp")
        return self.down(function(gate) * up)
