"""Blocks of words with their neighbours, and the loss of scores between rows of two tables.

    block = block_of(batch, k, size=16, window=5)
    x = gathered(table, rows)                        # [B, I, D]
    loss = score_loss(x, table[targets.ids], targets)

A block has the S words k S .. k S + S - 1 of each row of the batch, and `window` more on each side
(H = S + 2 window). `jaxlm.objectives.base_windows` makes the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.mesh import shard

LONG = ("words", "segments", "radius", "nodes", "signs", "subwords")  # keys [B, length, ...]


class Block(NamedTuple):
    """The words of a block, and what is known of each; None: not used."""

    size: int  # S
    window: int
    words: jax.Array  # [B, H] int32
    segments: jax.Array  # [B, H] int32, their documents; 0 is padding
    radius: jax.Array  # [B, H] int32
    negatives: jax.Array | None = None  # [B, M] int32 words
    nodes: jax.Array | None = None  # [B, H, L] int32, the path to each word
    signs: jax.Array | None = None  # [B, H, L] int32: 1 where the code is 0, -1 where 1, 0: padding
    subwords: jax.Array | None = None  # [B, H, G] int32 rows of the input table; -1: padding

    def own(self, x: jax.Array) -> jax.Array:
        """[B, S, ...] the part of an array [B, H, ...] without the neighbours."""
        return x[:, self.window : self.window + self.size]

    def pairs(self, *, inputs: str) -> jax.Array:
        """float32 [B, S, H]: 1 where a word of the block and one of H are input and target.

        Two words are a pair where their distance is at most the radius of the target. inputs: "own"
        for inputs from the block and targets from H, or "all" for the reverse.
        """
        place = jnp.arange(self.size + 2 * self.window)
        distance = jnp.abs(place - self.window - jnp.arange(self.size)[:, None])
        radius = self.radius[:, None, :] if inputs == "own" else self.own(self.radius)[:, :, None]
        documents = self.own(self.segments)[:, :, None]
        same = (documents == self.segments[:, None, :]) & (documents > 0)
        return (same & (distance > 0) & (distance <= radius)).astype(jnp.float32)


class Targets(NamedTuple):
    """The rows of the output table that inputs are compared with."""

    ids: jax.Array  # [B, J] int32
    weights: jax.Array  # [B, I, J] float32: how often each input and target count
    labels: jax.Array  # 1 or 0, in a shape that broadcasts to [B, I, J]
    num: jax.Array  # what the loss is a mean of: pairs, or predicted words


def block_of(batch: Mapping[str, jax.Array], k: jax.Array, *, size: int, window: int) -> Block:
    """Block k of each row of a batch."""
    cut = {
        name: lax.dynamic_slice_in_dim(batch[name], k * size, size + 2 * window, axis=1)
        for name in LONG
        if name in batch
    }
    if "negatives" in batch:
        cut["negatives"] = lax.dynamic_index_in_dim(batch["negatives"], k, axis=1, keepdims=False)
    return Block(size=size, window=window, **cut)


def gathered(table: jax.Array, rows: jax.Array) -> jax.Array:
    """[B, I, D] the mean of the rows [B, I, G] of a table; -1 is padding."""
    if rows.shape[-1] == 1:
        return table[rows[..., 0]]
    there = rows >= 0
    found = jnp.where(there[..., None], table[jnp.maximum(rows, 0)], 0)
    return found.sum(-2) / jnp.maximum(there.sum(-1), 1)[..., None]


def added(table: jax.Array, rows: jax.Array, change: jax.Array) -> jax.Array:
    """The table with a change [B, I, D] added to each of the rows [B, I, G]; -1 is padding.

    Rows that come several times add up. What is added is whole on every device, so that a device
    never exchanges a table.
    """
    size = rows.shape[-1]
    change = jnp.broadcast_to(change[..., None, :], (*rows.shape, change.shape[-1]))
    change = shard(change.reshape(-1, change.shape[-1]), None, None)
    rows = shard(rows.reshape(-1), None)
    if size > 1:
        rows = jnp.where(rows >= 0, rows, len(table))  # out of the table: dropped
    return table.at[rows].add(change, mode="drop")


def score_loss(x: jax.Array, y: jax.Array, targets: Targets) -> jax.Array:
    """The weighted sum of -log s(x . y) where the label is 1, and of -log s(-x . y) where it is 0.

    x: [B, I, D]. y: [B, J, D].
    """
    scores = jnp.einsum("bid,bjd->bij", x, y, precision="highest")
    labels = jnp.broadcast_to(targets.labels, scores.shape).astype(scores.dtype)
    return (targets.weights * _surprise(scores, labels)).sum()


@jax.custom_jvp
def _surprise(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return _softplus(scores, jnp.exp(-jnp.abs(scores))) - labels * scores


@_surprise.defjvp
def _surprise_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """The derivative s(score) - label, by the exponential that the value needs as well."""
    scores, labels = primals
    power = jnp.exp(-jnp.abs(scores))
    sigmoid = jnp.where(scores >= 0, 1, power) / (1 + power)
    return _softplus(scores, power) - labels * scores, (sigmoid - labels) * tangents[0]


def _softplus(scores: jax.Array, power: jax.Array) -> jax.Array:
    """log(1 + exp(score)), of exp(-|score|); a sum of losses does not need log1p."""
    return jnp.maximum(scores, 0) + jnp.log(1 + power)
