"""Attention over packed rows, forward and backward, as tests of its kernels ask for it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxlm.kernels.attention import attention


def values_and_gradients(
    impl: str,
    segments: np.ndarray,  # [B, T] int
    positions: np.ndarray,  # [B, T] int
    heads: tuple[int, int],  # of queries, of keys
    sizes: tuple[int, int],  # of a head of queries and keys, of values
    **options: Any,
) -> Any:
    """(output, gradients of queries, keys and values) of drawn ones."""
    rng = np.random.default_rng(0)
    (n, k), (h, v) = heads, sizes
    shapes = (n, h), (k, h), (k, v), (n, v)
    *inputs, cotangent = (
        rng.normal(size=(*segments.shape, *shape)).astype(np.float32) for shape in shapes
    )
    places = {f"{side}_positions": positions for side in "qk"}
    places |= {f"{side}_segment_ids": segments for side in "qk"}

    @jax.jit
    def both(q: Any, k: Any, v: Any) -> Any:
        call = lambda q, k, v: attention(  # noqa: E731
            q, k, v, **places, same_rows=True, impl=impl, **options
        )
        out, pull = jax.vjp(call, q, k, v)
        return out, pull(cotangent)

    return jax.device_get(both(*inputs))
