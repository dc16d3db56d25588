"""Mismatched prompts and answers of a batch: each prompt with the answer before it.

    rotated(batch)      # tokens, targets, loss_weights, segment_ids, positions: [B, T] each

The sequences of a batch are its segments, in the order of rows; an answer begins at the first
target that counts. Sequence i gets the answer of sequence i - 1, the first one that of the last. A
row's new sequences follow each other from its start as the old ones did, and what exceeds the row
is cut.
Everything is a gather of ids on the device, from all rows of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def rotated(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch of mismatched sequences, in the layout of the given one."""
    segments, weights = batch["segment_ids"], batch["loss_weights"]
    rows, length = segments.shape
    slots = length + 1
    place = jnp.broadcast_to(jnp.arange(length), segments.shape)
    slot_of_token = jnp.where(segments > 0, segments - 1, slots)

    def least(values: jax.Array, counted: jax.Array) -> jax.Array:  # [B, S]
        where = jnp.where(counted, slot_of_token, slots)
        one = lambda v, i: jax.ops.segment_min(v, i, num_segments=slots)  # noqa: E731
        return jax.vmap(one)(values, where)

    real = least(place, weights > 0) < length  # [B, S]: has an answer
    start = least(place, segments > 0)
    answer = jnp.where(real, least(place, weights > 0), 0)  # where its first target is
    given = jnp.where(real, answer - start, 0)  # inputs before the one that predicts it
    last = jnp.where(real, -least(-place, weights > 0), -1)
    size = last + 1 - answer  # targets from there on
    flat = lambda x: x.reshape(-1)  # noqa: E731
    before = _before(flat(real)).reshape(real.shape)  # [B, S] in 0 .. B S - 1
    size = jnp.where(real, flat(size)[before], 0)
    source = (flat(answer) + jnp.repeat(jnp.arange(rows) * length, slots))[before]  # in B T
    ends = jnp.cumsum(given + size, axis=1)
    slot = jax.vmap(lambda e: jnp.searchsorted(e, jnp.arange(length), side="right"))(ends)
    inside = slot < slots
    slot = jnp.minimum(slot, slots - 1)
    pick = lambda x: jnp.take_along_axis(x, slot, axis=1)  # noqa: E731
    at = place - pick(ends - given - size)  # the place in its sequence
    prompt = jnp.clip(pick(start) + at, 0, length - 1)
    late = at - pick(given)  # the place of the next target in its answer; below 0 in the prompt
    follows = lambda x, n: flat(x)[jnp.clip(pick(source) + n, 0, rows * length - 1)]  # noqa: E731
    own = jnp.take_along_axis(batch["tokens"], prompt, axis=1)
    tokens = jnp.where(late <= 0, own, follows(batch["targets"], late - 1))
    counts = inside & (late >= 0)
    return {
        "tokens": jnp.where(inside, tokens, 0),
        "targets": jnp.where(counts, follows(batch["targets"], late), 0),
        "loss_weights": jnp.where(counts, follows(weights, late), 0.0),
        "segment_ids": jnp.where(inside, slot + 1, 0).astype(segments.dtype),
        "positions": jnp.where(inside, at, 0).astype(segments.dtype),
    }


def _before(real: jax.Array) -> jax.Array:
    """For each slot the last real one before it; for the first the last of all."""
    number = jnp.where(real, jnp.arange(len(real)), -1)
    latest = jax.lax.cummax(number)
    shifted = jnp.concatenate([jnp.full(1, -1, latest.dtype), latest[:-1]])
    return jnp.maximum(jnp.where(shifted < 0, latest[-1], shifted), 0)
