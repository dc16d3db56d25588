"""The choice of the next token from logits: the likeliest, or drawn from the cut distribution."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxlm.core.sampling import Sampling

Warper = Callable[[jax.Array, Sampling], jax.Array]


def next_token(logits: jax.Array, keys: jax.Array, sampling: Sampling) -> jax.Array:
    """One id a row from logits [B, V] and one key a row [B]."""
    if sampling.temperature == 0:
        return likeliest(logits)
    logits = cut(logits, sampling)
    noise = jax.vmap(lambda key, row: jax.random.gumbel(key, row.shape, row.dtype))(keys, logits)
    return likeliest(logits + noise)  # as jax.random.categorical draws


def likeliest(logits: jax.Array) -> jax.Array:
    """The first id int32 [...] of the largest of logits [..., V].

    Two reductions: XLA for CPUs takes five times as long for `argmax`, a reduction of pairs.
    """
    vocab = logits.shape[-1]
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    found = jnp.where(logits == logits.max(-1, keepdims=True), ids, vocab).min(-1)
    return jnp.minimum(found, vocab - 1)  # where a logit is not a number


def log_prob(logits: jax.Array, token: jax.Array) -> jax.Array:
    """The log probability [B] of one id a row under logits [B, V], float32."""
    logits = logits.astype(jnp.float32)
    own = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return own - jax.nn.logsumexp(logits, axis=-1)


def cut(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """The logits [..., V] that are drawn from, in transformers' order of warpers."""
    for warper in WARPERS:
        logits = warper(logits, sampling)
    return logits


def temperature(logits: jax.Array, sampling: Sampling) -> jax.Array:
    return logits / sampling.temperature


def top_k(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Keeps the k likeliest tokens."""
    if sampling.top_k is None:
        return logits
    least = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def top_p(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Keeps the fewest tokens whose probability reaches p, the likeliest always among them
    (Holtzman et al. 2020, arXiv:1904.09751)."""
    if sampling.top_p is None:
        return logits
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probs = jax.nn.softmax(ordered)
    before = jnp.cumsum(probs, axis=-1) - probs  # probability of all likelier tokens
    least = jnp.where(before < sampling.top_p, ordered, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)


def min_p(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """Keeps the tokens of at least p times the likeliest's probability
    (Nguyen et al. 2024, arXiv:2407.01082)."""
    if sampling.min_p is None:
        return logits
    least = logits.max(-1, keepdims=True) + jnp.log(sampling.min_p)
    return jnp.where(logits < least, -jnp.inf, logits)


WARPERS: tuple[Warper, ...] = (temperature, top_k, top_p, min_p)
