"""A jitted function whose compilations are blocks of their own, apart from what is run.

    step = Ahead(jax.jit(function))
    step(x, y)                              # what jax.jit(function)(x, y) is
    step(x, y, compiling=watchdog.paused)   # where it has to be compiled, it is so in that block

jax.jit compiles within the first call and may run it there, too: whoever watches over a run cannot
tell a long compilation from a program that hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np

Compiling = Callable[[], AbstractContextManager[None]]  # makes the block of one compilation


class Ahead:
    """Compiled once for every kind of arguments: tree, shapes, dtypes and shardings."""

    def __init__(self, jitted: Any) -> None:
        self._jitted = jitted
        self._programs: dict[Hashable, Any] = {}

    def __call__(self, *arguments: Any, compiling: Compiling = nullcontext) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        kind = (tree, *map(_kind, leaves))
        program = self._programs.get(kind)
        if program is None:
            with compiling():
                program = self._programs[kind] = self._jitted.lower(*arguments).compile()
        return program(*arguments)


def _kind(leaf: Any) -> Hashable:
    if isinstance(leaf, jax.Array):
        return (leaf.aval, leaf.sharding)
    return (np.shape(leaf), np.asarray(leaf).dtype)
