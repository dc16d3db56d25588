"""The hash that tests give to what jax has traced: see tests/static_hashes.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

traced: list[Any] = []


@partial(jax.jit, static_argnums=1, static_argnames=("size", "word"))
def call(x: jax.Array, shape: Any, *, size: Any, word: Any) -> jax.Array:
    traced.append((shape, size, word))
    return x


def test_each_static_value_is_traced_once_in_any_order_of_names() -> None:
    x = jnp.zeros(3)
    for _ in range(2):
        for shape in (2, (2,), (3, 4), True):
            call(x, shape, size=1, word="a")
            call(x, shape, word="a", size=1)
            call(x, shape, word=1, size="a")
    wanted = [(s, *rest) for s in (2, (2,), (3, 4), True) for rest in ((1, "a"), ("a", 1))]
    assert traced == wanted
