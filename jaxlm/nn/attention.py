"""Multi-head attention as a module: projections, positions, norms of queries and keys, the cache.

    config = MultiHeadConfig(num_heads=8, num_kv_heads=2)
    attention = config.build(256, norm=RMSNormConfig(), rngs=rngs)
    y, _ = attention(x, rows=rows, rotary=rotary)                            # training
    y, cache = attention(x, rows=rows, keys=all_rows, cache=cache, start=n)  # generation

num_kv_heads = num_heads is multi-head, 1 multi-query (Shazeer 2019), between them grouped-query
attention. Who sees whom is decided by positions and segment ids in `jaxlm.kernels.attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jaxlm.kernels.cudnn  # noqa: F401  (registers itself)
import jaxlm.kernels.flash  # noqa: F401  (registers itself)
import jaxlm.kernels.splash  # noqa: F401  (registers itself)
from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.core.types import AttentionConfig, NormConfig
from jaxlm.kernels.attention import Bias, attention
from jaxlm.kernels.context import context_kernels
from jaxlm.mesh import gather_length, shard, splits_length
from jaxlm.nn.dense import Dense
from jaxlm.nn.flops import matmul_flops
from jaxlm.nn.position import Rotary, Rows, apply_rotary
from jaxlm.nn.stack import named

Cache = dict[str, jax.Array]  # one layer's slots


@dataclass(frozen=True, kw_only=True)
class CommonAttention(AttentionConfig, abstract=True):
    """The fields that every attention has."""

    num_heads: int = field(4, "query heads", ge=1)
    window: tuple[int | None, ...] = field(
        (),
        "how many tokens a layer sees back, itself included; cycled over the layers; null: all",
        ge=1,
    )
    scale: float | None = field(None, "factor on scores; null: 1/sqrt(size of a query)", gt=0)
    softcap: float | None = field(None, "bounds scores to +-this by a tanh", gt=0)
    is_causal: bool = field(True, "a token sees none that is later")
    dropout: float = field(0.0, "on attention weights", ge=0, lt=1)
    impl: str = field("auto", "attention kernel: auto, reference, blocked, flash, splash, cudnn")
    context: str = field(
        "auto", "where a mesh splits the length: reference gathers keys, in ring they pass by; auto"
    )

    def validate(self) -> None:
        if self.context not in ("auto", *context_kernels.implementations):
            known = ", ".join(("auto", *context_kernels.implementations))
            raise UserError(f"context: unknown {shown(self.context)}; use one of {known}")
        if self.context == "ring" and self.dropout:
            raise UserError("context: a ring drops no weights; set dropout to 0, or use reference")

    @property
    def tensors(self) -> tuple[str, ...]:
        return ("query", "key", "value", "attention", "attention_out")

    @property
    def windows(self) -> tuple[int | None, ...]:
        """One period of the layers' windows."""
        return self.window or (None,)


@dataclass(frozen=True, kw_only=True)
class MultiHeadConfig(CommonAttention, type="multi_head"):
    """Multi-head, grouped-query or multi-query attention."""

    num_kv_heads: int | None = field(None, "key and value heads; null: num_heads", ge=1)
    head_dim: int | None = field(None, "size of a head; null: hidden_size / num_heads", ge=1)
    bias: bool = field(False, "biases of queries, keys and values")
    out_bias: bool = field(False, "a bias of the output")
    qk_norm: bool = field(False, "the model's norm on each query and key head")

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    def head_size(self, hidden_size: int) -> int:
        return self.head_dim or hidden_size // self.num_heads

    def rotary_size(self, hidden_size: int) -> int:
        return self.head_size(hidden_size)

    def check(self, hidden_size: int) -> None:
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"attention.num_kv_heads: {self.kv_heads} does not divide num_heads "
                f"{self.num_heads}; choose a divisor"
            )
        if self.head_dim is None and hidden_size % self.num_heads:
            raise UserError(
                f"attention.num_heads: {self.num_heads} does not divide hidden_size {hidden_size}; "
                "choose a divisor, or set attention.head_dim"
            )

    def score_flops(self, hidden_size: int) -> float:
        return 4.0 * self.num_heads * self.head_size(hidden_size)

    def build(self, dim: int, *, norm: NormConfig, **options: Any) -> Attention:
        return Attention(self, dim, norm=norm, **options)

    def init_cache(self, dim: int, batch_size: int, max_len: int, dtype: Any) -> Cache:
        shape = (batch_size, self.kv_heads, max_len, self.head_size(dim))
        return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}


class Attention(nnx.Module):
    """Projects x to queries, keys and values, attends, and projects back.

    `out_scale` multiplies the standard deviation of the output's kernel.
    """

    def __init__(
        self,
        config: MultiHeadConfig,
        dim: int,
        *,
        norm: NormConfig,
        std: float | None = None,
        out_scale: float = 1.0,
        dtype: Any = jnp.float32,
        rotary_interleaved: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        c = self.config = config
        self.rotary_interleaved = rotary_interleaved
        head_dim = c.head_size(dim)
        heads = {"heads": c.num_heads, "head_dim": head_dim}
        kv_heads = {"kv_heads": c.kv_heads, "head_dim": head_dim}
        embed = {"embed": dim}
        options: dict[str, Any] = {"std": std, "dtype": dtype, "rngs": rngs}
        self.query = Dense(embed, heads, bias=c.bias, **options)
        self.key = Dense(embed, kv_heads, bias=c.bias, **options)
        self.value = Dense(embed, kv_heads, bias=c.bias, **options)
        self.out = Dense(heads, embed, bias=c.out_bias, scale=out_scale, **options)
        self.query_norm = norm.build(head_dim) if c.qk_norm else None
        self.key_norm = norm.build(head_dim) if c.qk_norm else None

    @jax.named_scope("attention")
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        *,
        rows: Rows,
        rotary: Rotary | None = None,
        window: int | None = None,
        bias: Bias | None = None,
        cache: Cache | None = None,
        keys: Rows | None = None,
        start: jax.Array | int = 0,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """The output [B, T, D], and the cache with these tokens in slots start .. start + T.

        With a cache, `keys` has the places of the tokens in its slots, these ones included
        (segment id 0 in slots not yet written). `key` switches dropout of attention weights on.
        """
        q, k, v = self._queries(x, rotary), *self._keys_values(x, rotary)
        if cache is not None:
            cache = write_slots(cache, _by_head(k, v), start, dim=2)
            k, v = _by_token(cache)
        y = attend(self.config, q, k, v, rows, keys, window=window, bias=bias, key=key)
        return self.out(y), cache

    @jax.named_scope("attention")
    def project_source(self, source: jax.Array) -> Cache:
        """Keys and values of an encoder's output [B, S, D], for `cross`."""
        return _by_head(*self._keys_values(source, None))

    def source_flops(self) -> float:
        return matmul_flops(self.key) + matmul_flops(self.value)

    @jax.named_scope("attention")
    def cross(
        self,
        x: jax.Array,  # [B, T, D]
        source: Cache,
        *,
        rows: Rows,
        source_segment_ids: jax.Array,  # [B, S], 0 is padding
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Attention over a projected source: a token sees all of its own document's source."""
        keys = Rows(jnp.zeros_like(source_segment_ids), source_segment_ids)
        q, k, v = self._queries(x, None), *_by_token(source)
        return self.out(attend(self.config, q, k, v, rows, keys, key=key))

    def _queries(self, x: jax.Array, rotary: Rotary | None) -> jax.Array:
        q = shard(self.query(x), "batch", "length", "act_heads", None)
        if self.query_norm is not None:
            q = self.query_norm(q)
        return self._turned(q, rotary)

    def _keys_values(self, x: jax.Array, rotary: Rotary | None) -> tuple[jax.Array, jax.Array]:
        k = shard(self.key(x), "batch", "length", "act_kv_heads", None)
        v = shard(self.value(x), "batch", "length", "act_kv_heads", None)
        if self.key_norm is not None:
            k = self.key_norm(k)
        return self._turned(k, rotary), v

    def _turned(self, x: jax.Array, rotary: Rotary | None) -> jax.Array:
        if rotary is None:
            return x
        return apply_rotary(x, rotary, interleaved=self.rotary_interleaved)


def _by_head(k: jax.Array, v: jax.Array) -> Cache:
    """Keys and values [B, S, K, H] as they are kept, [B, K, S, H]: a head's own are neighbours, as
    the products of a new query read them.
    """
    return {"k": jnp.swapaxes(k, 1, 2), "v": jnp.swapaxes(v, 1, 2)}


def _by_token(cache: Cache) -> tuple[jax.Array, jax.Array]:
    return jnp.swapaxes(cache["k"], 1, 2), jnp.swapaxes(cache["v"], 1, 2)


def attend(
    config: CommonAttention,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    rows: Rows,
    keys: Rows | None,
    *,
    window: int | None = None,
    bias: Bias | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """The kernel as a config asks for it; `keys` None: q and k are the same tokens.

    Where the mesh splits the length, each device has its part of the queries; a cache is whole.
    """
    q, k, v = (named(x, name) for x, name in ((q, "query"), (k, "key"), (v, "value")))
    if keys is None and splits_length(q.shape[1]):
        drops = bool(config.dropout) and key is not None
        meet = context_kernels.pick(
            config.context, bias=bias is not None, dropout=drops, impl=config.impl
        )
        kernel = partial(meet, q, k, v, rows, impl=config.impl)
    else:
        seen = rows if keys is None else keys
        k, v, seen = jax.tree.map(gather_length, (k, v, seen))
        kernel = partial(
            attention,
            q,
            k,
            v,
            q_positions=rows.positions,
            k_positions=seen.positions,
            q_segment_ids=rows.segment_ids,
            k_segment_ids=seen.segment_ids,
            k_prefix=seen.prefix,
            same_rows=keys is None,
            impl=config.impl if keys is None else "auto",
        )
    y = kernel(
        is_causal=config.is_causal,
        window=window,
        bias=bias,
        softcap=config.softcap,
        scale=config.scale,
        dropout_rate=config.dropout,
        dropout_key=key,
    )
    return named(shard(y, "batch", "length", "act_heads", None), "attention")


def write_slots(cache: Cache, new: Cache, start: jax.Array | int, *, dim: int = 1) -> Cache:
    """The cache with new arrays in slots start .. start + T; the slots are along `dim`."""
    return {
        name: jax.lax.dynamic_update_slice_in_dim(
            slots, new[name].astype(slots.dtype), start, axis=dim
        )
        for name, slots in cache.items()
    }
