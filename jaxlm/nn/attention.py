"""Multi-head attention as a module: projections, positions, norms of queries and keys, the cache.

    attention = Attention(dim=256, num_heads=8, num_kv_heads=2, head_dim=32, rngs=rngs)
    y, _ = attention(x, rows=Rows(positions, segment_ids), rotary=rotary)         # training
    y, kv = attention(x, rows=rows, keys=all_rows, cache=kv, start=length)        # generation

num_kv_heads = num_heads is multi-head, 1 multi-query (Shazeer 2019), between them grouped-query
attention. Who sees whom is decided by positions and segment ids in `jaxlm.kernels.attention`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels.attention import attention
from jaxlm.mesh import shard
from jaxlm.nn.dense import Dense
from jaxlm.nn.norm import RMSNorm
from jaxlm.nn.position import Rotary, apply_rotary


class Rows(NamedTuple):
    """Where tokens stand: the mask's only inputs."""

    positions: jax.Array  # [B, T] int
    segment_ids: jax.Array  # [B, T] int


class KeyValue(NamedTuple):
    """One layer's cache."""

    k: jax.Array  # [B, S, K, H]
    v: jax.Array  # [B, S, K, H]


class Attention(nnx.Module):
    """Projects x to queries, keys and values, attends, and projects back.

    `bias` is that of the three inputs, `out_bias` that of the output. `out_scale` multiplies the
    standard deviation of the output's kernel. `qk_norm` puts an RMSNorm on each head of queries and
    keys.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        bias: bool = False,
        out_bias: bool = False,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        softcap: float | None = None,
        scale: float | None = None,
        rotary_interleaved: bool = False,
        dropout: float = 0.0,
        causal: bool = True,
        impl: str = "auto",
        std: float | None = None,
        out_scale: float = 1.0,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        assert num_heads % num_kv_heads == 0
        self.softcap, self.scale, self.causal = softcap, scale, causal
        self.rotary_interleaved, self.dropout, self.impl = rotary_interleaved, dropout, impl
        heads = {"heads": num_heads, "head_dim": head_dim}
        kv_heads = {"kv_heads": num_kv_heads, "head_dim": head_dim}
        embed = {"embed": dim}
        inputs = {"bias": bias, "std": std, "dtype": dtype, "rngs": rngs}
        self.query = Dense(embed, heads, **inputs)
        self.key = Dense(embed, kv_heads, **inputs)
        self.value = Dense(embed, kv_heads, **inputs)
        self.out = Dense(heads, embed, **(inputs | {"bias": out_bias, "scale": out_scale}))
        self.query_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None
        self.key_norm = RMSNorm(head_dim, eps=norm_eps) if qk_norm else None

    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        *,
        rows: Rows,
        rotary: Rotary | None = None,
        window: int | None = None,
        cache: KeyValue | None = None,
        keys: Rows | None = None,
        start: jax.Array | int = 0,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValue | None]:
        """The output [B, T, D], and the cache with these tokens in slots start .. start + T.

        With a cache, `keys` says where the tokens in its slots stand, these ones among them
        (segment id 0 in slots not yet written). `key` switches dropout of attention weights on.
        """
        q, k, v = self._project(x, rotary)
        if cache is not None:
            assert keys is not None, "a cache needs the rows of its slots"
            at = (0, start, 0, 0)
            cache = KeyValue(
                jax.lax.dynamic_update_slice(cache.k, k.astype(cache.k.dtype), at),
                jax.lax.dynamic_update_slice(cache.v, v.astype(cache.v.dtype), at),
            )
            k, v = cache
        seen = rows if keys is None else keys
        y = attention(
            *(q, k, v),
            q_positions=rows.positions,
            k_positions=seen.positions,
            q_segment_ids=rows.segment_ids,
            k_segment_ids=seen.segment_ids,
            causal=self.causal,
            window=window,
            softcap=self.softcap,
            scale=self.scale,
            same_rows=cache is None,
            dropout_rate=self.dropout,
            dropout_key=key,
            impl=self.impl if cache is None else "auto",
        )
        y = shard(y, "batch", "length", "act_heads", None)
        return self.out(y), cache

    def _project(self, x: jax.Array, rotary: Rotary | None) -> tuple[Any, Any, Any]:
        q = shard(self.query(x), "batch", "length", "act_heads", None)
        k = shard(self.key(x), "batch", "length", "act_kv_heads", None)
        v = shard(self.value(x), "batch", "length", "act_kv_heads", None)
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q = apply_rotary(q, rotary, interleaved=self.rotary_interleaved)
            k = apply_rotary(k, rotary, interleaved=self.rotary_interleaved)
        return q, k, v
