"""Steps whose gradient is not finite: an optimizer's state stays as it was.

    tx = guarded(config.direction(axes))
    updates, state = tx.update(grads, state, params, good=good)     # good: bool []

A transformation that does not know of this is guarded from outside, by a selection between the
state before and after. One that reads its new moments to make the update guards itself by `keep`,
and returns a `Guarded`: then XLA for CPUs writes each moment once, in place. Without the order that
`keep` gives, XLA computes the moments again in the loop that forms the update, and copies the old
ones first, because that loop has to read them too (AdamW: 23 arrays of the parameters' size are
read or written, in place of 11).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.kernels.registry import platform


class Guarded(optax.GradientTransformationExtraArgs):
    """A transformation whose `update` takes `good`, and keeps its state where that is False."""


def guarded(tx: optax.GradientTransformation) -> Guarded:
    """The transformation, whose state does not change in a step that is not good."""
    if isinstance(tx, Guarded):
        return tx
    inner = optax.with_extra_args_support(tx)

    def update(
        updates: Any, state: Any, params: Any = None, *, good: Any = True, **extra: Any
    ) -> tuple[Any, Any]:
        updates, new = inner.update(updates, state, params, **extra)
        return updates, _where(good, new, state)

    return Guarded(tx.init, update)


def keep(good: Any, new: Any, old: Any) -> tuple[Any, Any]:
    """(the moments to store: the new ones, or in a step that is not good the old ones; the moments
    that the update is to be made of).

    They are the same on a CPU, stored before they are read. Accelerators form several arrays in one
    loop, which a barrier would cut; there the update is made of the new ones.
    """
    kept = _where(good, new, old)
    if platform() != "cpu":
        return kept, new
    kept = jax.lax.optimization_barrier(kept)
    return kept, kept


def _where(good: Any, new: Any, old: Any) -> Any:
    if good is True:
        return new
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
