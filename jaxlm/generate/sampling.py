"""How the next token is chosen from logits: the likeliest, or drawn from the cut distribution."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How texts are written: token by token, greedily at temperature 0 or drawn from the cut
    distribution, or searched for with several beams, which draws nothing."""

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    num_beams: int = 1
    length_penalty: float = 1.0  # above 1 favours long beams, below 1 short ones; of scores too


def next_token(logits: jax.Array, keys: jax.Array, sampling: Sampling) -> jax.Array:
    """One id a row from logits [B, V] and one key a row [B]."""
    if sampling.temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, cut(logits, sampling)).astype(jnp.int32)


def log_prob(logits: jax.Array, token: jax.Array) -> jax.Array:
    """The log probability [B] of one id a row under logits [B, V], float32."""
    logits = logits.astype(jnp.float32)
    own = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return own - jax.nn.logsumexp(logits, axis=-1)


def cut(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """The logits [..., V] that are drawn from.

    Top-k keeps the k likeliest tokens; top-p (Holtzman et al. 2020, arXiv:1904.09751) the fewest
    whose probability reaches p, the likeliest always among them.
    """
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        least = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p is not None:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(ordered)
        before = jnp.cumsum(probs, axis=-1) - probs  # probability of all likelier tokens
        least = jnp.where(before < sampling.top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
