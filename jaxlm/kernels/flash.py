"""Attention that keeps no scores for its backward pass, in plain jnp, for CPUs.

Registered as "flash" under the signature of `jaxlm.kernels.attention.attention`. As in
FlashAttention (Dao et al. 2022, arXiv:2205.14135) the forward pass saves queries, keys, values, the
output o and the logarithm L of each softmax's sum. The backward pass forms the scores s again:

    p = exp(s - L)    dv = p^T do    ds = p (do v^T - do . o)    dq = ds k    dk = ds^T q

Heads go before length, and scores have keys before queries, so that no product transposes scores.
Short rows are blocks of queries over all keys up to the last of them. Long rows are blocks of
queries and of keys in loops, so neither the program nor the memory beside the saved arrays grows
with the square of the length. In short rows of unrolled layers XLA finds that both passes form the
same scores, and keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.kernels.attention import attention_kernels, dropped, visible, wide_einsum

LEAST_QUERIES = 16  # fewer are left to "reference", whose keys stay in the layout of a cache
BLOCK = 64  # queries of a block in short causal rows
SHORT = 8  # blocks of a short row at most
LONG_QUERIES, LONG_KEYS = 128, 128  # of a block in long rows
UNSEEN = -3.4028234663852886e38  # the least float32: the score of a key that is not seen
LEAST = UNSEEN / 2  # what a row's largest score is at least, so that exp(UNSEEN - LEAST) is 0
TINY = 1.1754943508222875e-38  # the smallest normal float32


class Spec(NamedTuple):
    """What is known when the program is made."""

    is_causal: bool
    diagonal: bool  # no query sees a key right of the diagonal
    window: int | None
    softcap: float | None
    scale: float
    dropout_rate: float
    loops: bool  # over blocks of queries and of keys


class Seen(NamedTuple):
    """What decides which keys a query sees, and the key of dropout."""

    q_positions: jax.Array  # [B, T]
    k_positions: jax.Array  # [B, S]
    q_segment_ids: jax.Array  # [B, T]
    k_segment_ids: jax.Array  # [B, S]
    k_prefix: jax.Array | None  # [B, S]
    dropout_key: jax.Array | None


def _supports(
    *, is_causal: bool, same_rows: bool, split: bool, bias: bool, length: int, **_: Any
) -> bool:
    return not (split or bias) and length >= LEAST_QUERIES and (same_rows or not is_causal)


@attention_kernels.register("flash", auto_on=("cpu",), supports=_supports)
def _flash(
    q: jax.Array,  # [B, T, N, H]
    k: jax.Array,  # [B, S, K, H]
    v: jax.Array,  # [B, S, K, H']
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
    bias: None,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    diagonal = is_causal and k_prefix is None
    size = q.shape[1] if diagonal else (q.shape[1] * k.shape[1]) ** 0.5
    loops = size > SHORT * BLOCK
    spec = Spec(is_causal, diagonal, window, softcap, scale, dropout_rate, loops)
    seen = Seen(q_positions, k_positions, q_segment_ids, k_segment_ids, k_prefix, dropout_key)
    return _attend(spec, q, k, v, seen)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(spec: Spec, q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen) -> jax.Array:
    return _forward(spec, q, k, v, seen)[0]


def _forward(
    spec: Spec, q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen
) -> tuple[jax.Array, tuple]:
    shape = (*q.shape[:3], v.shape[-1])
    q, k, v = _heads_first(q * spec.scale, k.shape[2]), *(x.swapaxes(1, 2) for x in (k, v))
    forward = _long_forward if spec.loops else _short_forward
    parts, sums = forward(spec, q, k, v, seen)  # [B, K, H', G, T], [B, K, G, T]
    out = jnp.transpose(parts, (0, 4, 1, 3, 2)).reshape(shape)
    return out, (q, k, v, seen, out, sums)


def _backward(spec: Spec, saved: tuple, gradient: jax.Array) -> tuple:
    q, k, v, seen, out, sums = saved
    # the sum over keys of p dp, for each query: do . o
    inner = (gradient.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    inner = _heads_first(inner, k.shape[1])[..., 0]
    gradient = _heads_first(gradient, k.shape[1])
    backward = _long_backward if spec.loops else _short_backward
    dq, dk, dv = backward(spec, Rows(q, gradient, sums, inner), k, v, seen)
    dq = jnp.transpose(dq * spec.scale, (0, 4, 1, 3, 2))  # [B, T, K, G, H]
    dq = dq.reshape(*out.shape[:3], q.shape[-1]).astype(q.dtype)
    return dq, *(x.swapaxes(1, 2).astype(k.dtype) for x in (dk, dv)), None


_attend.defvjp(_forward, _backward)


# ------------------------------------------------------------------------------------------ a block


def _scores(
    spec: Spec, q: jax.Array, k: jax.Array, seen: Seen
) -> tuple[jax.Array, jax.Array | None]:
    """(scores [B, K, s, G, t] float32 of a block, their derivative by those before the soft cap)

    q: [B, K, H, G, t]. k: [B, K, s, H]. Scores of keys that are not seen are the least number.
    """
    scores = wide_einsum("BKSH,BKHGT->BKSGT", k, q)
    slope = None
    if spec.softcap is not None:
        bounded = jnp.tanh(scores / spec.softcap)
        scores, slope = spec.softcap * bounded, 1 - bounded**2
    shown = visible(*seen[:5], is_causal=spec.is_causal, window=spec.window)
    return jnp.where(shown.swapaxes(1, 2)[:, None, :, None], scores, UNSEEN), slope


class Rows(NamedTuple):
    """What the backward pass knows of queries."""

    q: jax.Array  # [B, K, G, T, H]
    gradient: jax.Array  # [B, K, G, T, H'], of the output
    sums: jax.Array  # [B, K, G, T], L
    inner: jax.Array  # [B, K, G, T], do . o


def _gradients(
    spec: Spec, rows: Rows, k: jax.Array, v: jax.Array, seen: Seen
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dq [B, K, H, G, t], dk [B, K, s, H], dv [B, K, s, H']) float32 of a block."""
    scores, slope = _scores(spec, _dim_first(rows.q), k, seen)
    weights = jnp.exp(scores - rows.sums[:, :, None])
    back = wide_einsum("BKSH,BKHGT->BKSGT", v, _dim_first(rows.gradient))
    used = dropped(weights, spec.dropout_rate, seen.dropout_key)
    back = dropped(back, spec.dropout_rate, seen.dropout_key)
    ds = weights * (back - rows.inner[:, :, None])
    if slope is not None:
        ds = ds * slope
    ds, used = ds.astype(k.dtype), used.astype(v.dtype)
    dq = wide_einsum("BKSH,BKSGT->BKHGT", k, ds)
    dk = wide_einsum("BKSGT,BKGTH->BKSH", ds, rows.q)
    dv = wide_einsum("BKSGT,BKGTH->BKSH", used, rows.gradient)
    return dq, dk, dv


# --------------------------------------------------------------------------------------- short rows


def _spans(spec: Spec, length: int, keys: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries, and the keys that they may see."""
    block = BLOCK if spec.diagonal else length
    for start in range(0, length, block):
        stop = min(start + block, length)
        first = 0
        if spec.diagonal and spec.window is not None:  # positions increase within a document
            first = max(0, start - spec.window + 1) // BLOCK * BLOCK
        yield slice(start, stop), slice(first, stop if spec.diagonal else keys)


def _cut(seen: Seen, rows: slice, keys: slice) -> Seen:
    return Seen(
        seen.q_positions[:, rows],
        seen.k_positions[:, keys],
        seen.q_segment_ids[:, rows],
        seen.k_segment_ids[:, keys],
        None if seen.k_prefix is None else seen.k_prefix[:, keys],
        None if seen.dropout_key is None else jax.random.fold_in(seen.dropout_key, rows.start),
    )


def _short_forward(
    spec: Spec, q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen
) -> tuple[jax.Array, jax.Array]:
    """(o [B, K, H', G, T], L [B, K, G, T] float32)"""
    out, sums = [], []
    for rows, keys in _spans(spec, q.shape[3], k.shape[2]):
        near = _cut(seen, rows, keys)
        scores, _ = _scores(spec, _dim_first(q[:, :, :, rows]), k[:, :, keys], near)
        top = jnp.maximum(scores.max(2), LEAST)
        weights = jnp.exp(scores - top[:, :, None])
        total = jnp.maximum(weights.sum(2), TINY)
        used = dropped(weights, spec.dropout_rate, near.dropout_key).astype(v.dtype)
        part = wide_einsum("BKSH,BKSGT->BKHGT", v[:, :, keys], used)
        out.append((part / total[:, :, None]).astype(v.dtype))
        sums.append(top + jnp.log(total))
    return jnp.concatenate(out, axis=4), jnp.concatenate(sums, axis=3)


def _short_backward(
    spec: Spec, rows: Rows, k: jax.Array, v: jax.Array, seen: Seen
) -> tuple[jax.Array, jax.Array, jax.Array]:
    dq, dk, dv = [], [], []
    for here, keys in _spans(spec, rows.q.shape[3], k.shape[2]):
        block = Rows(*(x[:, :, :, here] for x in rows))
        near = _cut(seen, here, keys)
        found = _gradients(spec, block, k[:, :, keys], v[:, :, keys], near)
        dq.append(found[0])
        around = (keys.start, k.shape[2] - keys.stop)
        pad = [(0, 0, 0), (0, 0, 0), (*around, 0), (0, 0, 0)]
        dk.append(lax.pad(found[1], np.float32(0), pad))
        dv.append(lax.pad(found[2], np.float32(0), pad))
    return jnp.concatenate(dq, axis=4), sum(dk[1:], dk[0]), sum(dv[1:], dv[0])


# ---------------------------------------------------------------------------------------- long rows


class Long(NamedTuple):
    """A row's blocks of queries and keys, padded so that all are whole."""

    spec: Spec
    seen: Seen
    rows: int  # blocks of queries
    keys: int  # blocks of keys

    @classmethod
    def of(cls, spec: Spec, seen: Seen) -> Long:
        rows = -(-seen.q_positions.shape[1] // LONG_QUERIES)
        keys = -(-seen.k_positions.shape[1] // LONG_KEYS)
        t, s = rows * LONG_QUERIES, keys * LONG_KEYS
        padded = Seen(
            _padded(seen.q_positions, 1, t),
            _padded(seen.k_positions, 1, s),
            _padded(seen.q_segment_ids, 1, t),  # padding sees nothing, and is not seen
            _padded(seen.k_segment_ids, 1, s),
            None if seen.k_prefix is None else _padded(seen.k_prefix, 1, s),
            seen.dropout_key,
        )
        return cls(spec, padded, rows, keys)

    def keys_of(self, i: jax.Array) -> tuple[Any, Any]:
        """The blocks of keys, from and to, that block i of queries may see."""
        if not self.spec.diagonal:
            return 0, self.keys
        first: Any = 0
        if self.spec.window is not None:
            first = jnp.maximum(i * LONG_QUERIES - self.spec.window + 1, 0) // LONG_KEYS
        return first, ((i + 1) * LONG_QUERIES - 1) // LONG_KEYS + 1

    def cut(self, i: jax.Array, j: jax.Array) -> Seen:
        key = self.seen.dropout_key
        return Seen(
            _rows(self.seen.q_positions, i, LONG_QUERIES, 1),
            _rows(self.seen.k_positions, j, LONG_KEYS, 1),
            _rows(self.seen.q_segment_ids, i, LONG_QUERIES, 1),
            _rows(self.seen.k_segment_ids, j, LONG_KEYS, 1),
            None if self.seen.k_prefix is None else _rows(self.seen.k_prefix, j, LONG_KEYS, 1),
            None if key is None else jax.random.fold_in(key, i * self.keys + j),
        )


def _long_forward(
    spec: Spec, q: jax.Array, k: jax.Array, v: jax.Array, seen: Seen
) -> tuple[jax.Array, jax.Array]:
    long, length = Long.of(spec, seen), q.shape[3]
    q = _padded(q, 3, long.rows * LONG_QUERIES)
    k, v = (_padded(x, 2, long.keys * LONG_KEYS) for x in (k, v))

    def of_rows(i: jax.Array, carry: tuple) -> tuple:
        block = _dim_first(_rows(q, i, LONG_QUERIES, 3))

        def of_keys(j: jax.Array, found: tuple) -> tuple:
            part, top, total = found
            near = long.cut(i, j)
            scores, _ = _scores(spec, block, _rows(k, j, LONG_KEYS, 2), near)
            most = jnp.maximum(top, scores.max(2))
            weights, before = jnp.exp(scores - most[:, :, None]), jnp.exp(top - most)
            used = dropped(weights, spec.dropout_rate, near.dropout_key).astype(v.dtype)
            more = wide_einsum("BKSH,BKSGT->BKHGT", _rows(v, j, LONG_KEYS, 2), used)
            return part * before[:, :, None] + more, most, total * before + weights.sum(2)

        start = tuple(jnp.zeros((*x.shape[:-1], LONG_QUERIES), jnp.float32) for x in carry)
        found = start[0], jnp.full_like(start[1], LEAST), start[1]
        part, top, total = lax.fori_loop(*long.keys_of(i), of_keys, found)
        total = jnp.maximum(total, TINY)
        made = (part / total[:, :, None]).astype(v.dtype), top + jnp.log(total)
        return tuple(_put(x, y, i) for x, y in zip(carry, made, strict=True))

    batch, heads, group, size, _ = q.shape
    start = (
        jnp.zeros((batch, heads, v.shape[-1], group, size), v.dtype),
        jnp.zeros((batch, heads, group, size), jnp.float32),
    )
    out, sums = lax.fori_loop(0, long.rows, of_rows, start)
    return out[..., :length], sums[..., :length]


def _long_backward(
    spec: Spec, rows: Rows, k: jax.Array, v: jax.Array, seen: Seen
) -> tuple[jax.Array, jax.Array, jax.Array]:
    long, length, keys = Long.of(spec, seen), rows.q.shape[3], k.shape[2]
    rows = Rows(*(_padded(x, 3, long.rows * LONG_QUERIES) for x in rows))
    k, v = (_padded(x, 2, long.keys * LONG_KEYS) for x in (k, v))

    def of_rows(i: jax.Array, carry: tuple) -> tuple:
        dq, dk, dv = carry
        block = Rows(*(_rows(x, i, LONG_QUERIES, 3) for x in rows))

        def of_keys(j: jax.Array, found: tuple) -> tuple:
            own, dk, dv = found
            near = [_rows(x, j, LONG_KEYS, 2) for x in (k, v)]
            more = _gradients(spec, block, near[0], near[1], long.cut(i, j))
            dk, dv = (
                lax.dynamic_update_slice_in_dim(x, _rows(x, j, LONG_KEYS, 2) + y, j * LONG_KEYS, 2)
                for x, y in ((dk, more[1]), (dv, more[2]))
            )
            return own + more[0], dk, dv

        own = jnp.zeros((*dq.shape[:-1], LONG_QUERIES), jnp.float32)
        own, dk, dv = lax.fori_loop(*long.keys_of(i), of_keys, (own, dk, dv))
        return _put(dq, own, i), dk, dv

    batch, heads, group, size, dim = rows.q.shape
    dq = jnp.zeros((batch, heads, dim, group, size), jnp.float32)
    dk, dv = (jnp.zeros(x.shape, jnp.float32) for x in (k, v))
    dq, dk, dv = lax.fori_loop(0, long.rows, of_rows, (dq, dk, dv))
    return dq[..., :length], dk[:, :, :keys], dv[:, :, :keys]


def _put(x: jax.Array, block: jax.Array, i: jax.Array) -> jax.Array:
    """Array x [..., T] with block i of queries replaced."""
    return lax.dynamic_update_slice_in_dim(x, block, i * LONG_QUERIES, x.ndim - 1)


# ----------------------------------------------------------------------------------------- layouts


def _heads_first(x: jax.Array, num_kv_heads: int) -> jax.Array:
    """[B, T, N, H] -> [B, K, G, T, H]"""
    batch, length, heads, dim = x.shape
    grouped = x.reshape(batch, length, num_kv_heads, heads // num_kv_heads, dim)
    return jnp.transpose(grouped, (0, 2, 3, 1, 4))


def _dim_first(x: jax.Array) -> jax.Array:
    """[B, K, G, T, H] -> [B, K, H, G, T]"""
    return jnp.transpose(x, (0, 1, 4, 2, 3))


def _padded(x: jax.Array, axis: int, size: int) -> jax.Array:
    missing = size - x.shape[axis]
    if not missing:
        return x
    return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])


def _rows(x: jax.Array, index: jax.Array, size: int, axis: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(x, index * size, size, axis)
