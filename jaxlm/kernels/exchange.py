"""Rows that stand sorted by the device they go to, sent there and back: what dispatches tokens.

Within `shard_map`, over one mesh axis of P devices:

    route = Route.of(sizes, "expert")     # [P, n]: rows for each of every device's n groups
    y = send(x, route, "expert")          # [M, D] -> [P * M, D], device p's rows from p * M on
    x = send_back(y, route, "expert")     # [P * M, D] -> [M, D], each row where it was

No row is dropped: there is room for all rows of all devices, and what is not filled is 0. Each of
the two is the other's transpose, and that is their gradient. "reference" sends the room with the
rows; "ragged" the rows alone, which XLA knows to do on accelerators.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.kernels.registry import Kernel

exchange_kernels = Kernel("exchange")


class Route(NamedTuple):
    """How many rows go where."""

    sent: jax.Array  # [P] rows for each device
    start: jax.Array  # [P] of the first of them among this device's rows
    sizes: jax.Array  # [P, n] rows that each device sends for each of this one's groups
    home: jax.Array  # [P] where each device has the first of its rows for this one

    @classmethod
    def of(cls, sizes: jax.Array, axis: str) -> Route:
        """From the rows that this device has for each group of each device, [P, n]."""
        count = sizes.sum(1)
        start = jnp.cumsum(count) - count
        swap = partial(jax.lax.all_to_all, axis_name=axis, split_axis=0, concat_axis=0)
        return cls(count, start, swap(sizes), swap(start[:, None])[:, 0])


def send(x: jax.Array, route: Route, axis: str, *, impl: str = "auto") -> jax.Array:
    """Rows [M, D] to their devices: [P * M, D]."""
    return _send(axis, impl, x, route)


def send_back(y: jax.Array, route: Route, axis: str, *, impl: str = "auto") -> jax.Array:
    """Rows [P * M, D] to where they came from: [M, D], 0 where none was sent."""
    return _send_back(axis, impl, y, route)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _send(axis: str, impl: str, x: jax.Array, route: Route) -> jax.Array:
    return exchange_kernels.pick(impl)(x, route, axis, back=False)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _send_back(axis: str, impl: str, y: jax.Array, route: Route) -> jax.Array:
    return exchange_kernels.pick(impl)(y, route, axis, back=True)


_send.defvjp(
    lambda axis, impl, x, route: (_send(axis, impl, x, route), route),
    lambda axis, impl, route, gradient: (_send_back(axis, impl, gradient, route), None),
)
_send_back.defvjp(
    lambda axis, impl, y, route: (_send_back(axis, impl, y, route), route),
    lambda axis, impl, route, gradient: (_send(axis, impl, gradient, route), None),
)


# ------------------------------------------------------------------------------- implementations


@exchange_kernels.register("reference")
def _padded(x: jax.Array, route: Route, axis: str, *, back: bool) -> jax.Array:
    """By an exchange of equal parts, each with room for all rows of a device."""
    devices, dim = len(route.sent), x.shape[-1]
    if back:
        room = len(x) // devices
        came = jax.lax.all_to_all(x.reshape(devices, room, dim), axis, 0, 0).reshape(x.shape)
        row = jnp.arange(room)
        device = jnp.searchsorted(jnp.cumsum(route.sent), row, side="right")
        place = device * room + row - jnp.take(route.start, device, mode="clip")
        place = jnp.where(row < route.sent.sum(), place, len(x))
        return jnp.take(came, place, axis=0, mode="fill", fill_value=0)
    place = jnp.arange(len(x))
    source = jnp.where(place < route.sent[:, None], route.start[:, None] + place, len(x))
    parts = jnp.take(x, source, axis=0, mode="fill", fill_value=0)  # [P, M, D]
    return jax.lax.all_to_all(parts, axis, 0, 0).reshape(-1, dim)


@exchange_kernels.register("ragged", auto_on=("gpu", "tpu"))
def _ragged(x: jax.Array, route: Route, axis: str, *, back: bool) -> jax.Array:
    """By XLA's exchange of unequal parts: (from where, how many, to where there, how many come)."""
    devices, received = len(route.sent), route.sizes.sum(1)
    if back:
        room = len(x) // devices
        sizes = (jnp.arange(devices) * room, received, route.home, route.sent)
    else:
        room = devices * len(x)
        mine = jnp.full(devices, jax.lax.axis_index(axis) * len(x))
        sizes = (route.start, route.sent, mine, received)
    whole = [n.astype(jnp.int32) for n in sizes]
    zeros = jnp.zeros((room, x.shape[-1]), x.dtype)
    return jax.lax.ragged_all_to_all(x, zeros, *whole, axis_name=axis)
