"""NEFTune (Jain et al. 2023, arXiv:2310.05914): noise on embeddings, in training only.

    x + U(-1, 1) alpha / sqrt(L d)        L: tokens of a row, d: width of the embedding

    train: {embedding_noise: 5}

L is the length of the row as it is in the batch, with its padding, and with packing that of the
whole row, not of a document in it. Each element has its own draw. The key is that of the step and
the micro-batch, so a run that resumes draws the same.

    with embedding_noise(5.0, key):       # within the trace of a step
        loss = objective.loss(...)

What embeds tokens asks for it (`jaxlm.nn.embed`); outside of the context the embeddings
are plain, as in evaluation, generation and export.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from jaxlm.core.config import UserError

_FIRST = 1 << 21  # apart from the numbers that models and adapters fold into their keys


@dataclass(frozen=True)
class _Noise:
    alpha: float
    key: jax.Array
    calls: Iterator[int] = field(default_factory=itertools.count)


_NOISE: ContextVar[_Noise | None] = ContextVar("embedding_noise", default=None)


@contextmanager
def embedding_noise(alpha: float, key: jax.Array) -> Iterator[None]:
    """Within it, embeddings of tokens have noise; 0: none. key: one, or k for k micro-batches.

    Raises `UserError` at its end where no embedding of tokens was computed.
    """
    noise = _Noise(alpha, key) if alpha else None
    token = _NOISE.set(noise)
    try:
        yield
    finally:
        _NOISE.reset(token)
    if noise is not None and next(noise.calls) == 0:
        raise UserError("train.embedding_noise: this model has no embedding of tokens; remove it")


@contextmanager
def plain_embeddings() -> Iterator[None]:
    """Within it, embeddings of tokens have no noise: those of a frozen model in a train step."""
    token = _NOISE.set(None)
    try:
        yield
    finally:
        _NOISE.reset(token)


def noisy(x: jax.Array, rows_at: int) -> jax.Array:
    """Embeddings [B, T, d] with their noise, where the context has some; `rows_at` 1: [T, B, d]."""
    noise = _NOISE.get()
    if noise is None:
        return x
    number, key = _FIRST + next(noise.calls), noise.key
    fold = jax.random.fold_in
    key = jax.vmap(fold, (0, None))(key, number) if key.ndim else fold(key, number)
    dim, rows, length = x.shape[-1], x.shape[rows_at], x.shape[1 - rows_at]
    flat = (rows // key.size, length * dim)
    draw = lambda key: jax.random.uniform(key, flat, jnp.float32, -1.0, 1.0)  # noqa: E731
    drawn = jnp.moveaxis(jax.vmap(draw)(key), 0, 1) if key.ndim else draw(key)
    drawn = jnp.moveaxis(drawn.reshape(rows, length, dim), 0, rows_at)
    return x + (noise.alpha / math.sqrt(length * dim) * drawn).astype(x.dtype)
