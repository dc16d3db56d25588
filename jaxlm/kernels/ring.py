"""Ring attention over a split sequence: each device keeps its queries, keys and values rotate.

Ring attention (Liu et al. 2023, arXiv:2310.01889), within `shard_map` over one axis of P devices:

    out = ring_attention(q, k, v, rows, keys, Static("context", is_causal=True, scale=0.1))

In P steps each device receives the keys of all devices. It keeps the running softmax of its queries
and holds two parts of the keys at a time, for any length. The backward pass rotates the keys once
more, together with their gradients.

With a causal mask the first devices would be idle, because early queries see few keys. So chunks
are permuted first: of 2P chunks, device i takes chunk i, early in the text, and chunk 2P - 1 - i,
late in it (zig-zag, as in Megatron and ring-flash-attention). Pairs of chunks that see nothing of
each other are skipped, and every device computes the same half. The mask follows from positions and
segment ids, so packed documents work.

Blocks are plain matmuls, whose scores go through memory on TPUs, while all-gathered keys use the
splash kernel. Splash could compute a block, as it returns the logarithms of its sums. But its
gradient does not accept cotangents of these, so the backward pass would have to call private
functions of jax with the sums of the whole ring. It also needs the mask of a pair of chunks at
compile time, which here depends on the device and the step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlm.kernels.attention import visible

Places = tuple[jax.Array, ...]  # positions and segment ids [B, T] int, and for keys the prefix


class Static(NamedTuple):
    """The values that are known when compiling."""

    axis: str  # mesh axis
    is_causal: bool = True
    window: int | None = None
    softcap: float | None = None
    scale: float = 1.0


class RingQueries(NamedTuple):
    """Queries of one chunk, heads before length, and what they have seen so far."""

    q: jax.Array  # [B, K, G, T, H]
    top: jax.Array  # [B, K, G, T] the largest score
    total: jax.Array  # [B, K, G, T] sum of exp(score - top)
    out: jax.Array  # [B, K, G, T, H'] sum of the values, by these weights


def ring_attention(
    q: jax.Array,  # [B, T, N, H]
    k: jax.Array,  # [B, T, K, H]
    v: jax.Array,  # [B, T, K, H']
    rows: Places,
    keys: Places,
    static: Static,
) -> jax.Array:  # [B, T, N, H']
    """Attention of this device's queries over the keys of all devices on the axis."""
    swaps = static.is_causal and q.shape[1] % 2 == 0
    turn = partial(zigzag, axis=static.axis) if swaps else lambda x: x
    q, k, v, rows, keys = jax.tree.map(turn, (q, k, v, rows, keys))
    out = _ring(static, q, k, v, rows, keys)
    return zigzag(out, static.axis, back=True) if swaps else out


def zigzag(x: jax.Array, axis: str, *, back: bool = False) -> jax.Array:
    """A device's part [B, T, ...] of a text: replaces its chunks 2i and 2i + 1 by chunks i and
    2P - 1 - i; with `back` the inverse."""
    count, me = jax.lax.axis_size(axis), jax.lax.axis_index(axis)
    home = [min(chunk, 2 * count - 1 - chunk) for chunk in range(2 * count)]
    even, odd = ([(i, home[2 * i + s]) for i in range(count)] for s in (0, 1))
    first, second = jnp.split(x, 2, axis=1)
    is_even = me % 2 == 0  # then its early chunk has an even number, its late one an odd number
    if back:
        even, odd = ([(to, i) for i, to in pairs] for pairs in (even, odd))
        first, second = _ordered(is_even, first, second)
        parts = (jax.lax.ppermute(first, axis, even), jax.lax.ppermute(second, axis, odd))
        return jnp.concatenate(parts, axis=1)
    first, second = jax.lax.ppermute(first, axis, even), jax.lax.ppermute(second, axis, odd)
    return jnp.concatenate(_ordered(is_even, first, second), axis=1)


def _ordered(stays: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.where(stays, a, b), jnp.where(stays, b, a)


# -------------------------------------------------------------------------------------- both passes


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(static: Static, q: Any, k: Any, v: Any, rows: Places, keys: Places) -> jax.Array:
    return _forward(static, q, k, v, rows, keys)[0]


def _forward(static: Static, q: Any, k: Any, v: Any, rows: Places, keys: Places) -> tuple:
    least = jnp.finfo(jnp.float32).min

    def begin(q: jax.Array) -> RingQueries:
        shape = q.shape[:-1]
        # Half of the least float, so that a query that sees no key has exp(least / 2) = 0.
        return RingQueries(
            q,
            jnp.full(shape, least / 2),
            jnp.zeros(shape),
            jnp.zeros((*shape, v.shape[-1])),
        )

    def meet(part: RingQueries, k: jax.Array, v: jax.Array, seen: jax.Array) -> RingQueries:
        scores = jnp.where(seen[:, None, None], _scores(static, part.q, k)[0], least)
        top = jnp.maximum(part.top, scores.max(-1))
        kept, weights = jnp.exp(part.top - top), jnp.exp(scores - top[..., None])
        out = _product("BKGTS,BSKH->BKGTH", weights.astype(v.dtype), v)
        total = part.total * kept + weights.sum(-1)
        return RingQueries(part.q, top, total, part.out * kept[..., None] + out)

    def turn(state: tuple, _: Any) -> tuple[tuple, None]:
        parts, (k, v, keys) = state
        passed = _next(static, (k, v, keys))
        return (_each(static, meet, parts, (k, v), rows, keys), passed), None

    parts = [begin(x) for x in _halves(_grouped(q, k.shape[2]), dim=3)]
    between = jax.lax.axis_size(static.axis) - 1
    (parts, last), _ = jax.lax.scan(turn, (parts, (k, v, keys)), length=between)
    parts = _each(static, meet, parts, last[:2], rows, last[2])
    whole = jax.tree.map(lambda *x: jnp.concatenate(x, axis=3), *parts)
    total = jnp.maximum(whole.total, jnp.finfo(jnp.float32).tiny)
    out = _ungrouped(whole.out / total[..., None]).astype(v.dtype)
    # Named, so that a layer that saves its attention does not recompute the ring for its sums.
    out, log_total = (checkpoint_name(x, "attention") for x in (out, whole.top + jnp.log(total)))
    return out, (q, k, v, rows, keys, out, log_total)


def _backward(static: Static, saved: tuple, gradient: jax.Array) -> tuple:
    q, k, v, rows, keys, out, log_total = saved
    heads = k.shape[2]
    grouped = [_grouped(x, heads) for x in (q, gradient, out)]
    inner = (grouped[1].astype(jnp.float32) * grouped[2]).sum(-1)  # [B, K, G, T]
    parts = [
        (*x, jnp.zeros(x[0].shape))
        for x in zip(*(_halves(a, dim=3) for a in (*grouped[:2], inner, log_total)), strict=True)
    ]

    def meet(part: tuple, both: tuple, grads: tuple, seen: jax.Array) -> tuple[tuple, tuple]:
        (q, d_out, inner, log_total, d_q), (k, v), (d_k, d_v) = part, both, grads
        scores, slope = _scores(static, q, k)
        weights = jnp.where(seen[:, None, None], jnp.exp(scores - log_total[..., None]), 0.0)
        d_weights = _product("BKGTH,BSKH->BKGTS", d_out, v)
        d_scores = (weights * (d_weights - inner[..., None]) * slope).astype(q.dtype)
        d_q += _product("BKGTS,BSKH->BKGTH", d_scores, k)
        d_k += _product("BKGTS,BKGTH->BSKH", d_scores, q)
        d_v += _product("BKGTS,BKGTH->BSKH", weights.astype(q.dtype), d_out)
        return (q, d_out, inner, log_total, d_q), (d_k, d_v)

    def turn(state: tuple, _: Any) -> tuple[tuple, None]:
        parts, (k, v, keys, grads) = state
        parts, grads = _each_with(static, meet, parts, (k, v), grads, rows, keys)
        return (parts, _next(static, (k, v, keys, grads))), None

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
    between = jax.lax.axis_size(static.axis) - 1
    (parts, (*last, grads)), _ = jax.lax.scan(turn, (parts, (k, v, keys, zeros)), length=between)
    parts, grads = _each_with(static, meet, parts, tuple(last[:2]), grads, rows, last[2])
    d_k, d_v = _next(static, grads)  # back home; the keys themselves are not needed there
    d_q = _ungrouped(jnp.concatenate([part[-1] for part in parts], axis=3))
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_ring.defvjp(_forward, _backward)


# ------------------------------------------------------------------------------------------- pieces


def _scores(static: Static, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array | float]:
    """Scores [B, K, G, T, S], and their derivative by the product of query and key."""
    scores = _product("BKGTH,BSKH->BKGTS", q, k) * static.scale
    if static.softcap is None:
        return scores, static.scale
    bent = jnp.tanh(scores / static.softcap)
    return static.softcap * bent, static.scale * (1 - jnp.square(bent))


def _product(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _each(
    static: Static, meet: Callable, parts: Any, both: tuple, rows: Places, keys: Places
) -> list:
    """Updates every part of the queries with every part of the keys that it can see."""
    after = list(parts)
    for i, mine in enumerate(_places(rows, len(parts))):
        for here, there in _pieces(both, keys, len(parts)):
            seen = _seen(static, mine, there)
            after[i] = jax.lax.cond(
                seen.any(), lambda p, kv, s: meet(p, *kv, s), lambda p, *_: p, after[i], here, seen
            )
    return after


def _each_with(
    static: Static,
    meet: Callable,
    parts: Any,
    both: tuple,
    grads: tuple,
    rows: Places,
    keys: Places,
) -> tuple[list, tuple]:
    """Like `_each`, and also accumulates the gradients of the keys."""
    after, grown = list(parts), []
    of_keys = list(zip(*(_halves(x, len(parts)) for x in grads), strict=True))
    for (here, there), grad in zip(_pieces(both, keys, len(parts)), of_keys, strict=True):
        for i, mine in enumerate(_places(rows, len(parts))):
            seen = _seen(static, mine, there)
            after[i], grad = jax.lax.cond(
                seen.any(), meet, lambda p, _, g, s: (p, g), after[i], here, grad, seen
            )
        grown.append(grad)
    return after, tuple(jnp.concatenate(x, axis=1) for x in zip(*grown, strict=True))


def _pieces(both: tuple, keys: Places, count: int) -> list[tuple[tuple, Places]]:
    split = list(zip(*(_halves(x, count) for x in both), strict=True))
    return list(zip(split, _places(keys, count), strict=True))


def _places(places: Places, count: int) -> list[Places]:
    return list(zip(*(_halves(x, count) for x in places), strict=True))


def _halves(x: jax.Array, count: int = 2, *, dim: int = 1) -> list[jax.Array]:
    """Two chunks along the length; one where that is odd."""
    return jnp.split(x, count if x.shape[dim] % count == 0 else 1, axis=dim)


def _seen(static: Static, rows: Places, keys: Places) -> jax.Array:
    (q_positions, q_ids), (k_positions, k_ids, *prefix) = rows, keys
    return visible(
        q_positions,
        k_positions,
        q_ids,
        k_ids,
        *prefix,
        is_causal=static.is_causal,
        window=static.window,
    )


def _next(static: Static, tree: Any) -> Any:
    """The arrays of the previous device of the ring."""
    count = jax.lax.axis_size(static.axis)
    ring = [(i, (i + 1) % count) for i in range(count)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, static.axis, ring), tree)


def _grouped(x: jax.Array, heads: int) -> jax.Array:  # [B, T, N, H] -> [B, K, G, T, H]
    batch, length, count, dim = x.shape
    return jnp.transpose(x.reshape(batch, length, heads, count // heads, dim), (0, 2, 3, 1, 4))


def _ungrouped(x: jax.Array) -> jax.Array:  # [B, K, G, T, H] -> [B, T, N, H]
    batch, heads, group, length, dim = x.shape
    return jnp.transpose(x, (0, 3, 1, 2, 4)).reshape(batch, length, heads * group, dim)
