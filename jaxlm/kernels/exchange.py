"""Rows that stand sorted by the device they go to, sent there and back: what dispatches tokens.

Within `shard_map`, over one mesh axis of P devices:

    route = Route.of(sizes, "expert")     # [P, n]: rows for each of every device's n groups
    y = send(x, route, "expert")          # [M, ...] -> [P * M, ...], those of device 0 first
    x = send_back(y, route, "expert")     # [P * M, ...] -> [M, ...], each row where it was

No row is dropped: there is room for all rows of all devices. What came stands in front, and behind
it may be anything; where none comes back is 0. Each of the two is the other's transpose, and that
is their gradient. "reference" sends the room with the rows; "ragged" the rows alone, which XLA
knows to do on accelerators, and touches no room that is not filled.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.kernels.filled import room_for
from jaxlm.kernels.registry import Kernel

exchange_kernels = Kernel("exchange")


class Route(NamedTuple):
    """How many rows go where."""

    sent: jax.Array  # [P] rows for each device
    start: jax.Array  # [P] of the first of them among this device's rows
    sizes: jax.Array  # [P, n] rows that each device sends for each of this one's groups
    first: jax.Array  # [P] where the first of each device's rows stands among those that came
    home: jax.Array  # [P] where each device has the first of its rows for this one
    place: jax.Array  # [P] where the first of this device's rows stands on each device

    @classmethod
    def of(cls, sizes: jax.Array, axis: str) -> Route:
        """From the rows that this device has for each group of each device, [P, n]."""
        swap = partial(jax.lax.all_to_all, axis_name=axis, split_axis=0, concat_axis=0)
        came = swap(sizes)
        start, first = (jnp.cumsum(n) - n for n in (sizes.sum(1), came.sum(1)))
        home, place = (swap(n[:, None])[:, 0] for n in (start, first))
        return cls(sizes.sum(1), start, came, first, home, place)


@jax.named_scope("experts")
def send(x: jax.Array, route: Route, axis: str, *, impl: str = "auto") -> jax.Array:
    """Rows [M, ...] to their devices: [P * M, ...]."""
    return _send(axis, impl, x, route)


@jax.named_scope("experts")
def send_back(y: jax.Array, route: Route, axis: str, *, impl: str = "auto") -> jax.Array:
    """Rows [P * M, ...] to where they came from: [M, ...], 0 where none was sent."""
    return _send_back(axis, impl, y, route)


@jax.named_scope("experts")
def apart(x: jax.Array) -> jax.Array:
    """Rows [M, D] as [M, 2, D / 2] where D is even.

    A TPU keeps pairs of 16 bits together. So a row is its own pair, which stands by itself in
    memory, as what is sent has to; others are copied first, and all the room with them.
    """
    return x.reshape(len(x), 2, -1) if x.shape[1] % 2 == 0 else x


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
    devices, received = len(route.sent), route.sizes.sum(1)
    if back:
        room = len(x) // devices
        parts = _cut(x, route.first, received, room)
        return _joined(jax.lax.all_to_all(parts, axis, 0, 0), route.start, route.sent, room)
    parts = _cut(x, route.start, route.sent, len(x))
    return _joined(jax.lax.all_to_all(parts, axis, 0, 0), route.first, received, devices * len(x))


def _cut(x: jax.Array, start: jax.Array, count: jax.Array, room: int) -> jax.Array:
    """Rows as parts [P, room, ...] that start and count so many, 0 behind them."""
    place = jnp.arange(room)
    source = jnp.where(place < count[:, None], start[:, None] + place, len(x))
    return jnp.take(x, source, axis=0, mode="fill", fill_value=0)


def _joined(parts: jax.Array, start: jax.Array, count: jax.Array, length: int) -> jax.Array:
    """The parts of `_cut` as rows [length, ...], one behind the other."""
    row, room = jnp.arange(length), parts.shape[1]
    part = jnp.searchsorted(start + count, row, side="right")
    source = part * room + row - jnp.take(start, part, mode="clip")
    source = jnp.where(row < count.sum(), source, len(parts) * room)
    return jnp.take(parts.reshape(-1, *parts.shape[2:]), source, axis=0, mode="fill", fill_value=0)


@exchange_kernels.register("ragged", auto_on=("gpu", "tpu"))
def _ragged(x: jax.Array, route: Route, axis: str, *, back: bool) -> jax.Array:
    """By XLA's exchange of unequal parts: (from where, how many, to where there, how many come)."""
    received = route.sizes.sum(1)
    if back:
        sizes = route.first, received, route.home, route.sent
        out = jnp.zeros((len(x) // len(route.sent), *x.shape[1:]), x.dtype)
    else:
        sizes = route.start, route.sent, route.place, received
        room = jax.ShapeDtypeStruct((len(x) * len(route.sent), *x.shape[1:]), x.dtype)
        (out,) = room_for(room, at=x)
    whole = [n.astype(jnp.int32) for n in sizes]
    return jax.lax.ragged_all_to_all(x, out, *whole, axis_name=axis)
