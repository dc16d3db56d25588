"""The feed-forward part of a block: plain, down(act(up(x))), or gated, down(act(gate(x)) * up(x)).

    ffn = DenseConfig(intermediate_size=688).build(256, rngs=rngs)
    y, _ = ffn(x, segment_ids)                   # [B, T, D] -> [B, T, D]

Gated variants: Shazeer 2020, "GLU Variants Improve Transformer". `gelu` is the exact one, x Phi(x);
`gelu_tanh` its approximation (Hendrycks & Gimpel 2016), which GPT-2 and Gemma use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import field
from jaxlm.core.types import FFNConfig
from jaxlm.mesh import shard
from jaxlm.nn.dense import Dense
from jaxlm.nn.stack import named

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "swiglu", "geglu", "geglu_tanh"]

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


@dataclass(frozen=True, kw_only=True)
class DenseConfig(FFNConfig, type="dense"):
    """A feed-forward network that every token passes."""

    intermediate_size: int | None = field(
        None,
        "its width; null: 4 hidden_size, or 8/3 of it where gated, to a multiple of 32",
        ge=1,
    )
    activation: Activation = field("swiglu", "names ending in glu are gated")
    bias: bool = field(False, "biases in its linear maps")

    def width(self, hidden_size: int) -> int:
        """Its width in a model of `hidden_size`."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        if is_gated(self.activation):
            return math.ceil(8 * hidden_size / 96) * 32
        return 4 * hidden_size

    @property
    def tensors(self) -> tuple[str, ...]:
        gate = ("ffn_gate",) if is_gated(self.activation) else ()
        return (*gate, "ffn_up", "ffn_hidden", "ffn_out")

    def build(self, dim: int, **options: Any) -> FeedForward:
        return FeedForward(self, dim, **options)


def is_gated(activation: str) -> bool:
    return ACTIVATIONS[activation][1]


class FeedForward(nnx.Module):
    """`out_scale` multiplies the standard deviation of the last kernel."""

    def __init__(
        self,
        config: DenseConfig,
        dim: int,
        *,
        std: float | None = None,
        out_scale: float = 1.0,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.activation = config.activation
        embed, mlp = {"embed": dim}, {"mlp": config.width(dim)}
        options: dict[str, Any] = {"bias": config.bias, "std": std, "dtype": dtype, "rngs": rngs}
        self.gate = Dense(embed, mlp, **options) if is_gated(config.activation) else None
        self.up = Dense(embed, mlp, **options)
        self.down = Dense(mlp, embed, scale=out_scale, **options)

    @jax.named_scope("ffn")
    def __call__(
        self, x: jax.Array, segment_ids: jax.Array, *, dropless: bool = False
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """The output [B, T, D], and no losses of its own; a token's place does not matter."""
        function, _ = ACTIVATIONS[self.activation]
        up = named(shard(self.up(x), "batch", "length", "act_mlp"), "ffn_up")
        if self.gate is None:
            hidden = _formed_again(function)(up)
        else:
            gate = named(shard(self.gate(x), "batch", "length", "act_mlp"), "ffn_gate")
            hidden = _formed_again(lambda gate, up: function(gate) * up)(gate, up)
        return self.down(named(hidden, "ffn_hidden")), {}


# Between up and hidden the backward pass finds nothing kept: forming it again is quicker than
# reading it, and takes no memory.
_formed_again = partial(jax.checkpoint, prevent_cse=False)
