"""A function of a head's logits, with a gradient, for some tokens at a time.

    over_chunks(lambda head, x, t: my_loss(logits(x, head), t), model.head(), hidden, targets)

The logits of `jaxlm.kernels.head_loss.CHUNK` tokens of each row are in memory at a time; the
backward pass computes them again. Where the mesh splits a row's length (`context`, and `stage`
after a pipeline), a chunk has so many tokens of each part, and each device computes its own. The
gradient of the head's kernel is summed over the chunks in float32, whatever the compute dtype is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.kernels.cross_entropy import HeadParams
from jaxlm.kernels.head_loss import ROWS, cut_tokens, joined_tokens
from jaxlm.mesh import RULES, fitting, num_parts, shard


def over_chunks(function: Callable[..., Any], head: HeadParams, *arrays: jax.Array) -> Any:
    """`function(head, *chunks)` of chunks [B, C, ...] of the arrays [B, T, ...]. It returns arrays
    [B, C, ...], in any tree; so does this, with T in the place of C.
    """
    head, dtype = head.gathered(), head.kernel.dtype
    # The gradient of an array that a scan closes over is summed in the array's dtype.
    wide = head.kernel.astype(jnp.float32)
    length = arrays[0].shape[1]
    parts = _parts(length)

    @jax.checkpoint
    def one(chunks: tuple[jax.Array, ...]) -> Any:
        found = function(head._replace(kernel=wide.astype(dtype)), *map(_merged, chunks))
        return jax.tree.map(lambda x: _by_part(x, parts), found)

    found = jax.lax.map(one, cut_tokens(*(_by_part(x, parts) for x in arrays)))
    return jax.tree.map(lambda x: _merged(joined_tokens(x, length // parts)), found)


def _parts(length: int) -> int:
    """Into how many parts the mesh splits the length of rows of so many tokens."""
    (axis,) = fitting(ROWS[1:], [length])
    return math.prod(map(num_parts, RULES[axis] or ())) if axis else 1


def _by_part(x: jax.Array, parts: int) -> jax.Array:
    """[B, T, ...] -> [B, T / parts, parts, ...], where each part is of tokens side by side."""
    x = x.reshape(x.shape[0], parts, -1, *x.shape[2:])
    return jnp.swapaxes(x, 1, 2)


def _merged(x: jax.Array) -> jax.Array:
    """The arrays [B, T, ...] of `_by_part` again."""
    x = jnp.swapaxes(x, 1, 2)
    x = x.reshape(x.shape[0], -1, *x.shape[3:])
    return shard(x, *ROWS, *(None,) * (x.ndim - 2))
