"""The dropout key that adapters draw from: what they are added to passes them none.

    with adapter_key(key):        # a step; in a stack, each layer has its own
        loss = objective.loss(...)
    key = key_of_adapter(3)       # inside: the key of the adapter of number 3, or None

The key is set while the step is traced. A stack of layers sets that of each layer within its scan
(`jaxlm.nn.stack`), so masks differ between layers, micro-batches and steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_KEY: ContextVar[jax.Array | None] = ContextVar("adapter_key", default=None)
_FIRST = 1 << 20  # apart from the numbers that models fold into their keys


@contextmanager
def adapter_key(key: jax.Array | None) -> Iterator[None]:
    """Within it, adapters draw their dropout from this key; None: they have no dropout."""
    token = _KEY.set(key)
    try:
        yield
    finally:
        _KEY.reset(token)


def key_of_adapter(number: int) -> jax.Array | None:
    """The key of one adapter, or a vector of keys where the step has one for each micro-batch."""
    key = _KEY.get()
    if key is None:
        return None
    fold = jax.random.fold_in
    return (
        jax.vmap(fold, (0, None))(key, _FIRST + number) if key.ndim else fold(key, _FIRST + number)
    )
