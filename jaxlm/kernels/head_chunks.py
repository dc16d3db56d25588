"""A function of a head's logits, with a gradient, for some tokens at a time.

    over_chunks(lambda head, x, t: my_loss(logits(x, head), t), model.head(), hidden, targets)

The logits of `jaxlm.kernels.head_loss.CHUNK` tokens of each row are in memory at a time; the
backward pass computes them again. The gradient of the head's kernel is summed over the chunks in
float32, whatever the compute dtype is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.kernels.cross_entropy import HeadParams
from jaxlm.kernels.head_loss import cut_tokens, joined_tokens


def over_chunks(function: Callable[..., Any], head: HeadParams, *arrays: jax.Array) -> Any:
    """`function(head, *chunks)` of chunks [B, C, ...] of the arrays [B, T, ...]. It returns arrays
    [B, C, ...], in any tree; so does this, with T in the place of C.
    """
    dtype = head.kernel.dtype
    # The gradient of an array that a scan closes over is summed in the array's dtype.
    wide = head.kernel.astype(jnp.float32)

    @jax.checkpoint
    def one(chunks: tuple[jax.Array, ...]) -> Any:
        return function(head._replace(kernel=wide.astype(dtype)), *chunks)

    found = jax.lax.map(one, cut_tokens(*arrays))
    return jax.tree.map(lambda x: joined_tokens(x, arrays[0].shape[1]), found)
