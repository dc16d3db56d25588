"""The one Transformer: a family is what its config composes, never a name that code tests.

x = embed(tokens) [+ positions]
for each layer:  x = x + attention(norm(x));  x = x + ffn(norm(x))      (pre-norm)
hidden = norm(x);  logits = hidden @ head

config = TransformerConfig(hidden_size=256, num_layers=4, num_heads=8, num_kv_heads=2)
model = config.build(vocab_size=2048, rngs=nnx.Rngs(0))
hidden, _ = model(tokens, positions=positions, segment_ids=segment_ids)
logits = model.logits(hidden)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.config import UserError, field
from jaxlm.kernels.cross_entropy import HeadParams
from jaxlm.kernels.cross_entropy import logits as head_logits
from jaxlm.mesh import shard
from jaxlm.nn.attention import Attention, KeyValue, Rows
from jaxlm.nn.dense import Dense, weight
from jaxlm.nn.dropout import dropout, split_key
from jaxlm.nn.embed import Embedding
from jaxlm.nn.ffn import FeedForward, is_gated
from jaxlm.nn.norm import LayerNorm, RMSNorm
from jaxlm.nn.position import LearnedPositions, Rotary, restart, rotary_angles, sinusoidal
from jaxlm.nn.stack import apply_stack, stack
from jaxlm.types import ModelConfig

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "swiglu", "geglu", "geglu_tanh"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """A Transformer decoder."""

    hidden_size: int = field(256, "width of the residual stream", ge=1)
    num_layers: int = field(4, "number of blocks", ge=1)
    num_heads: int = field(4, "query heads", ge=1)
    num_kv_heads: int | None = field(None, "key and value heads; null: num_heads", ge=1)
    head_dim: int | None = field(None, "size of a head; null: hidden_size / num_heads", ge=1)
    intermediate_size: int | None = field(
        None,
        "width of the ffn; null: 4 hidden_size, or 8/3 of it where gated, to a multiple of 32",
        ge=1,
    )
    activation: Activation = field("swiglu", "of the ffn; names ending in glu are gated")
    norm: Literal["rmsnorm", "layernorm"] = field("rmsnorm", "normalisation before each part")
    norm_eps: float = field(1e-5, "added to the variance in every norm", gt=0)
    position: Literal["rotary", "learned", "sinusoidal", "none"] = field(
        "rotary", "how a token knows its place"
    )
    max_seq_len: int | None = field(None, "rows of the table of learned positions", ge=1)
    rope_theta: float = field(10_000.0, "base of the rotary angles", gt=1)
    rope_scaling: float = field(1.0, "divides rotary positions, to stretch to longer texts", gt=0)
    rope_fraction: float = field(1.0, "part of each head that is rotated", gt=0, le=1)
    rope_interleaved: bool = field(False, "rotate pairs (2i, 2i+1) instead of (i, i + half)")
    tie_embeddings: bool = field(True, "whether the head is the transposed embedding")
    bias: bool = field(False, "biases in all linear maps and in LayerNorm")
    qkv_bias: bool = field(False, "biases of queries, keys and values alone")
    qk_norm: bool = field(False, "RMSNorm on each query and key head")
    window: tuple[int | None, ...] = field(
        (),
        "how many tokens a layer sees back, itself included; cycled over the layers; null: all",
        ge=1,
    )
    attention_scale: float | None = field(None, "factor on scores; null: 1/sqrt(head_dim)", gt=0)
    attention_softcap: float | None = field(None, "bounds scores to +-this by a tanh", gt=0)
    logit_softcap: float | None = field(None, "bounds logits to +-this by a tanh", gt=0)
    embedding_scale: float = field(1.0, "factor on the token embeddings", gt=0)
    dropout: float = field(0.0, "on the embeddings and on what each block adds", ge=0, lt=1)
    attention_dropout: float = field(0.0, "on attention weights", ge=0, lt=1)
    initializer_range: float | None = field(
        0.02, "std of all kernels and embeddings; null: 1/sqrt(fan in) for kernels", gt=0
    )
    vocab_size: int | None = field(None, "rows of the embedding; null: the tokenizer's", ge=1)
    dtype: Literal["bfloat16", "float32"] = field("bfloat16", "of activations and matmuls")
    remat: Literal["none", "minimal", "dots", "full"] = field(
        "none", "what is recomputed in the backward pass: nothing, elementwise, + attention, layers"
    )
    scan_layers: bool = field(True, "compile one layer and loop, instead of all layers in a row")
    attention_impl: str = field("auto", "attention kernel: auto, reference, blocked")

    def validate(self) -> None:
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"num_kv_heads: {self.kv_heads} does not divide num_heads {self.num_heads}; "
                "choose a divisor"
            )
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise UserError(
                f"num_heads: {self.num_heads} does not divide hidden_size {self.hidden_size}; "
                "choose a divisor, or set head_dim"
            )
        if self.position == "learned" and self.max_seq_len is None:
            raise UserError("max_seq_len: is required with position learned; set it to the seq_len")
        if self.position == "rotary" and int(self.head_size * self.rope_fraction) % 2:
            raise UserError(
                f"rope_fraction: {self.rope_fraction} of head_dim {self.head_size} is odd; "
                "rotary positions turn pairs, make it even"
            )

    @property
    def output_size(self) -> int:
        return self.hidden_size

    @property
    def max_positions(self) -> int | None:
        return self.max_seq_len if self.position == "learned" else None

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def ffn_size(self) -> int:
        if self.intermediate_size is not None:
            return self.intermediate_size
        if is_gated(self.activation):
            return math.ceil(8 * self.hidden_size / 96) * 32
        return 4 * self.hidden_size

    @property
    def windows(self) -> tuple[int | None, ...]:
        """One period of the layers' windows."""
        return self.window or (None,)

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> Transformer:
        """The model for a tokenizer of `vocab_size` ids."""
        if self.vocab_size is not None and self.vocab_size < vocab_size:
            raise UserError(
                f"model.vocab_size: {self.vocab_size} is less than the tokenizer's {vocab_size}; "
                f"set it to at least {vocab_size}, or to null"
            )
        return Transformer(self, self.vocab_size or vocab_size, rngs=rngs)


class Block(nnx.Module):
    """One layer. `attend` holds what the attention of all layers shares."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs) -> None:
        c = config
        # the sum of 2L contributions keeps its variance
        options: dict[str, Any] = {
            "std": c.initializer_range,
            "out_scale": 1 / math.sqrt(2 * c.num_layers),
            "dtype": jnp.dtype(c.dtype),
            "rngs": rngs,
        }
        self.dropout = c.dropout
        self.attention_norm = _norm(c)
        self.attention = Attention(
            *(c.hidden_size, c.num_heads, c.kv_heads, c.head_size),
            bias=c.bias or c.qkv_bias,
            out_bias=c.bias,
            qk_norm=c.qk_norm,
            norm_eps=c.norm_eps,
            softcap=c.attention_softcap,
            scale=c.attention_scale,
            rotary_interleaved=c.rope_interleaved,
            dropout=c.attention_dropout,
            impl=c.attention_impl,
            **options,
        )
        self.ffn_norm = _norm(c)
        self.ffn = FeedForward(
            c.hidden_size, c.ffn_size, activation=c.activation, bias=c.bias, **options
        )

    def __call__(
        self, x: jax.Array, cache: KeyValue | None, key: jax.Array | None, **attend: Any
    ) -> tuple[jax.Array, KeyValue | None]:
        weights_key, first, second = split_key(key, 3)
        y, cache = self.attention(self.attention_norm(x), cache=cache, key=weights_key, **attend)
        x = x + dropout(y, self.dropout, first)
        x = x + dropout(self.ffn(self.ffn_norm(x)), self.dropout, second)
        return shard(x, "batch", "length", "act_embed"), cache


class Transformer(nnx.Module):
    """A decoder-only language model; see `jaxlm.types.LanguageModel`."""

    def __init__(self, config: TransformerConfig, vocab_size: int, *, rngs: nnx.Rngs) -> None:
        c = config
        self.config, self.vocab_size = config, vocab_size
        self.dtype = jnp.dtype(c.dtype)
        std = 0.02 if c.initializer_range is None else c.initializer_range
        options: dict[str, Any] = {"dtype": self.dtype, "rngs": rngs}
        self.embed = Embedding(vocab_size, c.hidden_size, std=std, **options)
        self.position = (
            LearnedPositions(c.max_seq_len, c.hidden_size, std=std, **options)
            if c.position == "learned" and c.max_seq_len is not None
            else None
        )
        self.layers = stack(lambda rngs: Block(c, rngs=rngs), c.num_layers, rngs=rngs)
        self.final_norm = _norm(c)
        self.unembed = (
            None
            if c.tie_embeddings
            else Dense(
                *({"embed": c.hidden_size}, {"vocab": vocab_size}),
                std=c.initializer_range,
                **options,
            )
        )

    def __call__(
        self,
        tokens: jax.Array,  # [B, T] int
        *,
        positions: jax.Array,  # [B, T] int
        segment_ids: jax.Array,  # [B, T] int
        cache: dict[str, Any] | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any] | None]:
        """Hidden states [B, T, D] after the final norm, and the cache with T more slots."""
        c = self.config
        rows = Rows(positions, segment_ids)
        if cache is None:
            rows = rows._replace(positions=restart(positions, segment_ids))
        embed_key, layers_key = split_key(key, 2)
        x = dropout(self._embed(tokens, rows.positions), c.dropout, embed_key)
        x = shard(x, "batch", "length", "act_embed")

        attend: dict[str, Any] = {"rows": rows, "rotary": self._rotary(rows.positions)}
        kv = None
        if cache is not None:
            start = cache["length"]
            keys = Rows(
                *(
                    jax.lax.dynamic_update_slice(cache[name], new.astype(jnp.int32), (0, start))
                    for name, new in zip(Rows._fields, rows, strict=True)
                )
            )
            attend |= {"keys": keys, "start": start}
            kv = KeyValue(cache["k"], cache["v"])

        def body(layer: Block, x: jax.Array, xs: Any, kind: int) -> tuple[jax.Array, Any]:
            kv, key = xs
            return layer(x, kv, key, window=c.windows[kind], **attend)

        layer_keys = None if layers_key is None else jax.random.split(layers_key, c.num_layers)
        x, kv = apply_stack(
            self.layers,
            body,
            x,
            (kv, layer_keys),
            num_layers=c.num_layers,
            period=len(c.windows),
            scan=c.scan_layers,
            remat=c.remat,
        )
        if cache is not None:
            length = start + tokens.shape[1]
            cache = {**kv._asdict(), **keys._asdict(), "length": length}
        return self.final_norm(x), cache

    def logits(self, hidden: jax.Array) -> jax.Array:  # [B, T, D] -> [B, T, V]
        """Float32 logits."""
        return shard(head_logits(hidden, self.head()), "batch", "length", "act_vocab")

    def head(self) -> HeadParams:
        """The kernel [D, V] in the compute dtype, and the soft cap, for the loss."""
        if self.unembed is None:
            kernel = self.embed.attend()
        else:
            kernel = weight(self.unembed.kernel, self.dtype)
        return HeadParams(kernel, None, self.config.logit_softcap)

    def init_cache(self, batch_size: int, max_len: int) -> dict[str, Any]:
        """An empty cache of `max_len` slots a row: {k, v [L, B, S, K, H], positions, segment_ids
        [B, S], length}. Slots with segment id 0 are not seen, so prompts are padded on the left."""
        c = self.config
        shape = (c.num_layers, batch_size, max_len, c.kv_heads, c.head_size)
        slots = jnp.zeros((batch_size, max_len), jnp.int32)
        return {
            "k": jnp.zeros(shape, self.dtype),
            "v": jnp.zeros(shape, self.dtype),
            "positions": slots,
            "segment_ids": slots,
            "length": jnp.zeros((), jnp.int32),
        }

    def flops_per_token(self, seq_len: int, *, causal: bool = True) -> float:
        """Forward FLOPs a token in rows of `seq_len`.

        2 for each element of each kernel, and 4 N H for each key that a query meets. `causal`
        counts the keys up to the query's own, else all of the row. A backward pass costs twice as
        much.
        """
        c = self.config
        state = nnx.to_pure_dict(nnx.state(self, nnx.Param))
        kernels = jax.tree_util.tree_leaves_with_path(state)
        matmul = sum(math.prod(x.shape) for path, x in kernels if path[-1].key == "kernel")
        if self.unembed is None:
            matmul += math.prod(self.embed.table.shape)
        keys = 0.0
        for index in range(c.num_layers):
            keys += _keys_met(seq_len, c.windows[index % len(c.windows)], causal)
        return 2.0 * matmul + 4.0 * c.num_heads * c.head_size * keys

    def _embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        c = self.config
        x = self.embed(tokens)
        if c.embedding_scale != 1.0:
            x = x * jnp.asarray(c.embedding_scale, x.dtype)
        if self.position is not None:
            assert c.max_seq_len is not None
            if tokens.shape[1] > c.max_seq_len:
                raise UserError(
                    f"model.max_seq_len: {c.max_seq_len} learned positions, but rows have "
                    f"{tokens.shape[1]} tokens; raise it or shorten the rows"
                )
            x = x + self.position(positions)
        if c.position == "sinusoidal":
            x = x + sinusoidal(positions, c.hidden_size).astype(x.dtype)
        return x

    def _rotary(self, positions: jax.Array) -> Rotary | None:
        c = self.config
        if c.position != "rotary":
            return None
        return rotary_angles(
            positions,
            c.head_size,
            theta=c.rope_theta,
            fraction=c.rope_fraction,
            scaling=c.rope_scaling,
        )


def _norm(c: TransformerConfig) -> RMSNorm | LayerNorm:
    if c.norm == "rmsnorm":
        return RMSNorm(c.hidden_size, eps=c.norm_eps)
    return LayerNorm(c.hidden_size, eps=c.norm_eps, bias=c.bias)


def _keys_met(length: int, window: int | None, causal: bool) -> float:
    """Keys that a query meets, on average over a row."""
    reach = length if window is None else min(window, length)
    if causal:  # the first `reach` queries meet 1, 2, ..., reach keys
        return reach - reach * (reach - 1) / (2 * length)
    return min(2 * reach - 1, length)
