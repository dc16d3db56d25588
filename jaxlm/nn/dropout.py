"""Dropout (Srivastava et al. 2014) as a function of an explicit key.

    x = dropout(x, 0.1, key)                       # key None: x itself
    x = dropout(x, 0.3, key, shared_dims=(1,))     # one mask for all of T (variational, Gal 2016)

Keys are passed in, never held by a module: a mask is a pure function of (key, shape), so it depends
neither on the mesh nor on the loop that the layer is in. A vector of k keys is for rows of k
micro-batches together: rows i, i + k, ... take the mask that key i draws for them alone.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def dropout(
    x: jax.Array, rate: float, key: jax.Array | None, *, shared_dims: tuple[int, ...] = ()
) -> jax.Array:
    """Zeroes each element with probability `rate` in [0, 1) and divides the rest by 1 - rate.

    Elements along `shared_dims` share one draw. Without a key, or at rate 0, returns x.
    """
    if key is None or rate == 0.0:
        return x
    shared = {dim % x.ndim for dim in shared_dims}
    shape = tuple(1 if dim in shared else size for dim, size in enumerate(x.shape))
    # The same draws as of `shape`, but a matrix of them compiles in half the time or less.
    flat = (shape[0] // key.size, math.prod(shape[1:]))
    draw = lambda key: jax.random.bernoulli(key, 1.0 - rate, flat)  # noqa: E731
    keep = jnp.moveaxis(jax.vmap(draw)(key), 0, 1) if key.ndim else draw(key)
    return jnp.where(keep.reshape(shape), x / (1.0 - rate), jnp.zeros((), x.dtype))


def split_key(key: jax.Array | None, count: int) -> tuple[jax.Array | None, ...]:
    """`count` independent keys, or that many None."""
    return (None,) * count if key is None else tuple(split_keys(key, count))


def split_keys(key: jax.Array, count: int) -> jax.Array:
    """[count] independent keys of a key, or [count, k] of a vector of k."""
    if key.ndim:
        return jax.vmap(jax.random.split, (0, None), 1)(key, count)
    return jax.random.split(key, count)
