"""Attention with grouped heads, documents, windows and soft caps: softmax(q k^T scale) v.

Vaswani et al. 2017; grouped queries: Ainslie et al. 2023 (query head n reads key head n // (N/K),
and keys are never repeated in memory); sliding window: Child et al. 2019, Beltagy et al. 2020.

    out = attention(q, k, v, q_positions=p, k_positions=p, q_segment_ids=s, k_segment_ids=s,
                    same_rows=True)

A query sees a key of its own document (equal segment id, not 0) that is not later, or is of the
document's prefix, and is within the window. A query that sees no key gets zeros. Weights of unseen
keys are exactly 0, so another document cannot change a single bit. Scores and softmax are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.kernels.registry import Kernel, platform
from jaxlm.mesh import num_parts, splits_length

MIN_BLOCK = 64  # queries in a block of "blocked": best of 32, 64, 128 on CPU at T 256
MAX_BLOCKS = 16  # keeps the program small for long rows

attention_kernels = Kernel("attention")

# (query positions [B, T], key positions [B, S]) -> what is added to scores, [B, N, T, S] float32
Bias = Callable[[jax.Array, jax.Array], jax.Array]


@jax.named_scope("attention")
def attention(
    q: jax.Array,  # [B, T, N, H]
    k: jax.Array,  # [B, S, K, H], K divides N
    v: jax.Array,  # [B, S, K, H'], H' = H except in latent attention
    *,
    q_positions: jax.Array,  # [B, T] int
    k_positions: jax.Array,  # [B, S] int
    q_segment_ids: jax.Array,  # [B, T] int, 0 sees nothing
    k_segment_ids: jax.Array,  # [B, S] int, 0 is seen by nothing
    k_prefix: jax.Array | None = None,  # [B, S] bool: seen by all of its document
    is_causal: bool = True,
    window: int | None = None,
    softcap: float | None = None,
    scale: float | None = None,
    bias: Bias | None = None,
    same_rows: bool = False,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    impl: str = "auto",
) -> jax.Array:  # [B, T, N, H'] in the dtype of v
    """Attention of every query over the keys that it sees.

    `window`: keys fewer than `window` positions away are seen, the query's own included. `softcap`:
    scores become softcap * tanh(scores / softcap). `scale`: 1/sqrt(H) by default. `bias` is added
    to the scores after these. `same_rows` promises that q and k are the same tokens in the same
    order, with positions that increase by one within each document; then nothing right of the
    diagonal is visible, and need not be computed. Where the mesh splits the length, a device has a
    part of the queries and all keys.
    `dropout_rate` zeroes attention weights when `dropout_key` is given.
    """
    assert q.shape[2] % k.shape[2] == 0, f"{q.shape[2]} query heads over {k.shape[2]} kv heads"
    split = splits_length(q.shape[1])
    function = attention_kernels.pick(
        impl,
        is_causal=is_causal,
        prefix=k_prefix is not None,
        window=window is not None,
        same_rows=same_rows,
        split=split,
        bias=bias is not None,
        dropout=bool(dropout_rate) and dropout_key is not None,
        length=q.shape[1] // (num_parts("context") if split else 1),  # queries of one device
        keys=k.shape[1],
        softcap=softcap is not None,
        dtype=q.dtype.name,
        head_dims=(q.shape[-1], v.shape[-1]),
    )
    return function(
        q,
        k,
        v,
        q_positions=q_positions,
        k_positions=k_positions,
        q_segment_ids=q_segment_ids,
        k_segment_ids=k_segment_ids,
        k_prefix=k_prefix,
        is_causal=is_causal,
        window=window,
        softcap=softcap,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        bias=bias,
        dropout_rate=0.0 if dropout_key is None else dropout_rate,
        dropout_key=dropout_key,
    )


def visible(
    q_positions: jax.Array,
    k_positions: jax.Array,
    q_segment_ids: jax.Array,
    k_segment_ids: jax.Array,
    k_prefix: jax.Array | None = None,
    *,
    is_causal: bool,
    window: int | None,
) -> jax.Array:  # [B, T, S] bool
    """Whether each query sees each key."""
    q_segment_ids, k_segment_ids = q_segment_ids[:, :, None], k_segment_ids[:, None, :]
    seen = (q_segment_ids == k_segment_ids) & (q_segment_ids != 0)
    distance = q_positions[:, :, None] - k_positions[:, None, :]
    if is_causal:
        earlier = distance >= 0
        seen &= earlier if k_prefix is None else earlier | k_prefix[:, None, :]
    if window is not None:
        seen &= jnp.abs(distance) < window
    return seen


@attention_kernels.register("reference")
def _reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    q_positions: jax.Array,
    k_positions: jax.Array,
    q_segment_ids: jax.Array,
    k_segment_ids: jax.Array,
    k_prefix: jax.Array | None,
    is_causal: bool,
    window: int | None,
    softcap: float | None,
    scale: float,
    bias: Bias | None,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """All scores in one matmul; the keys stay in the layout of the cache."""
    seen = visible(
        q_positions,
        k_positions,
        q_segment_ids,
        k_segment_ids,
        k_prefix,
        is_causal=is_causal,
        window=window,
    )
    grouped = _group(q, k.shape[2])
    scores = wide_einsum("BTKGH,BSKH->BKGTS", grouped, k)
    added = None if bias is None else bias(q_positions, k_positions)
    weights, total = _softmax(scores * scale, seen[:, None, None], softcap, added)
    weights = dropped(weights / total, dropout_rate, dropout_key)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights.astype(v.dtype), v)
    return out.reshape(*q.shape[:3], v.shape[-1])


def _supports_blocked(
    *, is_causal: bool, prefix: bool, same_rows: bool, split: bool, **_: Any
) -> bool:
    return is_causal and same_rows and not (prefix or split)


@attention_kernels.register("blocked", auto_on=("cpu", "gpu", "tpu"), supports=_supports_blocked)
def _blocked(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    q_positions: jax.Array,
    k_positions: jax.Array,
    q_segment_ids: jax.Array,
    k_segment_ids: jax.Array,
    k_prefix: jax.Array | None,
    is_causal: bool,
    window: int | None,
    softcap: float | None,
    scale: float,
    bias: Bias | None,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Causal self-attention by blocks of queries, each over the keys up to its last query.

    Heads go before length, so that every product is a plain batched matmul, and the division by the
    softmax's sum comes after the second one, on H columns instead of S.
    """
    assert k_prefix is None
    batch, length, heads, _ = q.shape
    dim = v.shape[-1]
    block = max(MIN_BLOCK, -(-length // MAX_BLOCKS))
    grouped = jnp.transpose(_group(q * scale, k.shape[2]), (0, 2, 3, 1, 4))  # [B, K, G, T, H]
    k, v = jnp.transpose(k, (0, 2, 1, 3)), jnp.transpose(v, (0, 2, 1, 3))  # [B, K, S, H]
    out = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        # Positions increase within a document, so a key `window` rows back is never seen.
        first = 0 if window is None else max(0, start - window + 1)
        first -= first % MIN_BLOCK
        rows, keys = slice(start, stop), slice(first, stop)
        seen = visible(
            q_positions[:, rows],
            k_positions[:, keys],
            q_segment_ids[:, rows],
            k_segment_ids[:, keys],
            is_causal=is_causal,
            window=window,
        )
        scores = wide_einsum("BKGTH,BKSH->BKGTS", grouped[:, :, :, rows], k[:, :, keys])
        added = None if bias is None else bias(q_positions[:, rows], k_positions[:, keys])
        weights, total = _softmax(scores, seen[:, None, None], softcap, added)
        if dropout_rate:
            assert dropout_key is not None
            weights = dropped(weights, dropout_rate, jax.random.fold_in(dropout_key, start))
        part = wide_einsum("BKGTS,BKSH->BKGTH", weights.astype(v.dtype), v[:, :, keys])
        out.append((part / total).astype(v.dtype))
    merged = jnp.transpose(jnp.concatenate(out, axis=3), (0, 3, 1, 2, 4))  # [B, T, K, G, H]
    return merged.reshape(batch, length, heads, dim)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def wide_einsum(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """An einsum of two narrow arrays with a float32 result.

    Its gradients are products of narrow arrays too. Without this rule jax would widen the factors
    to the cotangent's float32, which a TPU multiplies at a sixth of the speed. CPUs widen them: XLA
    has no such product there where both factors have several dims of their own.
    """
    assert a.dtype == b.dtype, "factors of two dtypes"
    if platform() == "cpu":
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _wide_backward(spec: str, factors: tuple, gradient: jax.Array) -> tuple:
    _, pullback = jax.vjp(partial(jnp.einsum, spec), *factors)
    return pullback(gradient.astype(factors[0].dtype))


wide_einsum.defvjp(lambda spec, a, b: (wide_einsum(spec, a, b), (a, b)), _wide_backward)


def _group(q: jax.Array, num_kv_heads: int) -> jax.Array:
    """[B, T, N, H] -> [B, T, K, G, H]: the G query heads of each kv head."""
    batch, length, heads, dim = q.shape
    return q.reshape(batch, length, num_kv_heads, heads // num_kv_heads, dim)


def _softmax(
    scores: jax.Array,  # [B, K, G, T, S]
    seen: jax.Array,
    softcap: float | None,
    bias: jax.Array | None,  # [B, N, T, S]
) -> tuple[Any, Any]:
    """Softmax over the seen keys as (weights before division, their sum); 0 where none is seen."""
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.reshape(bias.shape[0], *scores.shape[1:])
    least = jnp.finfo(scores.dtype).min
    scores = jnp.where(seen, scores, least)
    # Clipped at least / 2, so that a row that sees no key has exp(least / 2) = 0 everywhere.
    top = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), least / 2)
    weights = jnp.exp(scores - jax.lax.stop_gradient(top))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights, jnp.maximum(total, jnp.finfo(scores.dtype).tiny)


def dropped(weights: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """The array with a share `rate` of its elements 0, and the others divided by 1 - rate."""
    if not rate:
        return weights
    assert key is not None
    # The same random numbers as for the whole shape; a matrix compiles in a quarter of the time.
    flat = (weights.shape[0], math.prod(weights.shape[1:]))
    keep = jax.random.bernoulli(key, 1.0 - rate, flat).reshape(weights.shape)
    return jnp.where(keep, weights / (1.0 - rate), 0.0)
