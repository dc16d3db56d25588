"""Multi-head latent attention: keys and values of all heads from one small vector a token.

    c_t = norm(W_down x_t)                    [R], all that a cache keeps besides
    r_t = rotary(W_rope x_t)                  one rotary key, which all heads share
    k_n, v_n = split(W_up c_t)                of head n, without positions
    score_n = q_n . [k_n, r] / sqrt(nope_dim + rope_dim)

DeepSeek-V2 (arXiv:2405.04434, section 2.1); queries may be compressed the same way.

    config = LatentConfig(num_heads=16, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128)
    attention = config.build(2048, norm=RMSNormConfig(), rngs=rngs)
    y, cache = attention(x, rows=rows, rotary=rotary, keys=all_rows, cache=cache, start=n)

With a cache, W_up may as well be applied to the few queries and to what they gathered as to the
many slots: q . W c = (W^T q) . c. Then all heads look at the compressed vectors themselves, as one
key and value head of size R. The form with fewer FLOPs is taken; both are the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import field
from jaxlm.core.types import NormConfig
from jaxlm.kernels.attention import Bias
from jaxlm.mesh import shard
from jaxlm.nn.attention import Cache, CommonAttention, attend, write_slots
from jaxlm.nn.dense import Dense, weight
from jaxlm.nn.flops import matmul_flops
from jaxlm.nn.position import Rotary, Rows, apply_rotary

# `attend` with the settings of one call: (q, k, v, rows, keys) -> [B, T, N, H]
Attend = Callable[[jax.Array, jax.Array, jax.Array, Rows, Rows | None], jax.Array]


@dataclass(frozen=True, kw_only=True)
class LatentConfig(CommonAttention):
    """Multi-head latent attention."""

    q_rank: int | None = field(None, "size of the compressed queries; null: not compressed", ge=1)
    kv_rank: int = field(512, "size of the vector that keys and values are made of", ge=1)
    nope_dim: int = field(128, "features of a query or key head without positions", ge=1)
    rope_dim: int = field(64, "rotary features of a query head, and of the shared key", ge=1)
    v_dim: int = field(128, "size of a value head", ge=1)
    norm_eps: float | None = field(
        None, "eps of the norms of compressed vectors; null: as the model's norm has it", gt=0
    )

    @property
    def projects_latents(self) -> bool:
        return True

    def rotary_size(self, hidden_size: int) -> int:
        return self.rope_dim

    def score_flops(self, hidden_size: int) -> float:
        return 2.0 * self.num_heads * (self.nope_dim + self.rope_dim + self.v_dim)

    def build(self, dim: int, *, norm: NormConfig, **options: Any) -> LatentAttention:
        return LatentAttention(self, dim, norm=norm, **options)

    def init_cache(self, dim: int, batch_size: int, max_len: int, dtype: Any) -> Cache:
        sizes = {"latent": self.kv_rank, "rope": self.rope_dim}
        return {name: jnp.zeros((batch_size, max_len, n), dtype) for name, n in sizes.items()}


class LatentAttention(nnx.Module):
    """`out_scale` multiplies the standard deviation of the output's kernel."""

    def __init__(
        self,
        config: LatentConfig,
        dim: int,
        *,
        norm: NormConfig,
        std: float | None = None,
        out_scale: float = 1.0,
        dtype: Any = jnp.float32,
        rotary_interleaved: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        usual = (config.nope_dim + config.rope_dim) ** -0.5
        c = self.config = config.replace(scale=usual if config.scale is None else config.scale)
        self.rotary_interleaved = rotary_interleaved
        options: dict[str, Any] = {"std": std, "dtype": dtype, "rngs": rngs}
        if c.norm_eps is not None:
            norm = norm.replace(eps=c.norm_eps)

        def heads(size: int) -> dict[str, int]:
            return {"heads": c.num_heads, "head_dim": size}

        embed, low = {"embed": dim}, c.q_rank
        self.query_down = Dense(embed, {"act_latent": low}, **options) if low else None
        self.query_norm = norm.build(low) if low else None
        self.query = Dense(
            {"latent": low} if low else embed, heads(c.nope_dim + c.rope_dim), **options
        )
        self.down = Dense(embed, {"act_latent": c.kv_rank}, **options)
        self.rope_key = Dense(embed, {"head_dim": c.rope_dim}, **options)
        self.norm = norm.build(c.kv_rank)
        self.up = Dense({"latent": c.kv_rank}, heads(c.nope_dim + c.v_dim), **options)
        self.out = Dense(heads(c.v_dim), embed, scale=out_scale, **options)

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
        """As `jaxlm.nn.attention.Attention`; the cache holds compressed vectors and rotary keys."""
        q, seen = self._queries(x, rotary), self._compressed(x, rotary)
        meet = partial(attend, self.config, window=window, bias=bias, key=key)
        if cache is None:
            return self._expanded(q, seen, rows, keys, meet), None
        cache = write_slots(cache, seen, start)
        c = self.config
        saved = c.kv_rank * (c.nope_dim + c.v_dim)  # for each slot and head
        spent = x.shape[1] * (2 * c.kv_rank - c.nope_dim - c.v_dim)
        form = self._absorbed if spent < saved else self._expanded
        return form(q, cache, rows, keys, meet), cache

    def project_source(self, source: jax.Array) -> Cache:
        """The values that `cross` needs of an encoder's output [B, S, D]."""
        return self._compressed(source, None)

    def source_flops(self) -> float:
        return sum(map(matmul_flops, (self.down, self.rope_key, self.up)))

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
        meet = partial(attend, self.config, key=key)
        return self._expanded(self._queries(x, None), source, rows, keys, meet)

    def _queries(self, x: jax.Array, rotary: Rotary | None) -> jax.Array:
        """[B, T, N, nope_dim + rope_dim], the last ones turned."""
        if self.query_down is not None:
            assert self.query_norm is not None
            x = self.query_norm(self.query_down(x))
        q = shard(self.query(x), "batch", "length", "act_heads", None)
        plain, turned = jnp.split(q, [self.config.nope_dim], axis=-1)
        return jnp.concatenate([plain, self._turned(turned, rotary)], axis=-1)

    def _compressed(self, x: jax.Array, rotary: Rotary | None) -> Cache:
        """The vector [B, T, R] and the shared rotary key [B, T, rope_dim] of each token."""
        turned = self._turned(self.rope_key(x)[:, :, None], rotary)[:, :, 0]
        return {"latent": self.norm(self.down(x)), "rope": turned}

    def _turned(self, x: jax.Array, rotary: Rotary | None) -> jax.Array:
        if rotary is None:
            return x
        return apply_rotary(x, rotary, interleaved=self.rotary_interleaved)

    def _expanded(
        self, q: jax.Array, seen: Cache, rows: Rows, keys: Rows | None, meet: Attend
    ) -> jax.Array:
        """Keys and values of every head, [B, S, N, ...], and attention over them."""
        c = self.config
        both = shard(self.up(seen["latent"]), "batch", "length", "act_heads", None)
        k, v = jnp.split(both, [c.nope_dim], axis=-1)
        turned = jnp.broadcast_to(
            seen["rope"][:, :, None].astype(k.dtype), (*k.shape[:-1], c.rope_dim)
        )
        k = jnp.concatenate([k, turned], axis=-1)
        return self.out(meet(q, k, v, rows, keys))

    def _absorbed(
        self, q: jax.Array, seen: Cache, rows: Rows, keys: Rows | None, meet: Attend
    ) -> jax.Array:
        """All heads over the compressed vectors, as one key and value head."""
        c = self.config
        key_up, value_up = jnp.split(
            weight(self.up.adapted_kernel(), q.dtype), [c.nope_dim], axis=-1
        )
        plain, turned = jnp.split(q, [c.nope_dim], axis=-1)
        q = jnp.concatenate([jnp.einsum("BTNH,RNH->BTNR", plain, key_up), turned], axis=-1)
        k = jnp.concatenate([seen["latent"], seen["rope"]], axis=-1)[:, :, None]
        v = seen["latent"][:, :, None]
        y = meet(q, k.astype(q.dtype), v, rows, keys)
        return self.out(jnp.einsum("BTNR,RNH->BTNH", y.astype(q.dtype), value_up))
