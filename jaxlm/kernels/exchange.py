"""All-to-all of rows that are sorted by their destination device, and back (expert dispatch).

Within `shard_map`, over one mesh axis of P devices:

    route = Route.of(sizes, "expert")     # [P, n]: rows for each of every device's n groups
    y = send(x, route, "expert")          # [M, ...] -> [P * M, ...], those of device 0 first
    x = send_back(y, route, "expert")     # [P * M, ...] -> [M, ...], each row where it was

No row is dropped: there is room for all rows of all devices. Received rows come first; the rows
after them may hold anything. A row that does not come back is 0. The two functions are each other's
transpose, and thereby each other's gradient. "reference" sends whole buffers; "ragged" sends only
the rows (XLA's ragged all-to-all on accelerators) and does not touch the rest of the buffer.
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
    """The number of rows for each device, and their offsets."""

    sent: jax.Array  # [P] rows for each device
    start: jax.Array  # [P] index of the first of them among this device's rows
    sizes: jax.Array  # [P, n] rows that each device sends for each of this one's groups
    first: jax.Array  # [P] index of each device's first row among the received rows
    home: jax.Array  # [P] index, on each device, of its first row for this one
    place: jax.Array  # [P] index, on each device, of this device's first row

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
    """Rows [P * M, ...] back to their senders: [M, ...], 0 for a row that was not sent."""
    return _send_back(axis, impl, y, route)


@jax.named_scope("experts")
def apart(x: jax.Array) -> jax.Array:
    """Rows [M, D] as [M, 2, D / 2] where D is even.

    A TPU stores pairs of 16-bit rows together. With this shape a row is its own pair and contiguous
    in memory, as the exchange requires; otherwise XLA copies the whole buffer first.
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
    """By an all-to-all of equal parts, each with room for all rows of a device."""
    devices, received = len(route.sent), route.sizes.sum(1)
    if back:
        room = len(x) // devices
        parts = _cut(x, route.first, received, room)
        return _joined(jax.lax.all_to_all(parts, axis, 0, 0), route.start, route.sent, room)
    parts = _cut(x, route.start, route.sent, len(x))
    return _joined(jax.lax.all_to_all(parts, axis, 0, 0), route.first, received, devices * len(x))


def _cut(x: jax.Array, start: jax.Array, count: jax.Array, room: int) -> jax.Array:
    """Rows as parts [P, room, ...] with these starts and counts, padded with 0."""
    place = jnp.arange(room)
    source = jnp.where(place < count[:, None], start[:, None] + place, len(x))
    return jnp.take(x, source, axis=0, mode="fill", fill_value=0)


def _joined(parts: jax.Array, start: jax.Array, count: jax.Array, length: int) -> jax.Array:
    """The parts of `_cut`, concatenated to rows [length, ...]."""
    row, room = jnp.arange(length), parts.shape[1]
    part = jnp.searchsorted(start + count, row, side="right")
    source = part * room + row - jnp.take(start, part, mode="clip")
    source = jnp.where(row < count.sum(), source, len(parts) * room)
    return jnp.take(parts.reshape(-1, *parts.shape[2:]), source, axis=0, mode="fill", fill_value=0)


@exchange_kernels.register("ragged", auto_on=("gpu", "tpu"))
def _ragged(x: jax.Array, route: Route, axis: str, *, back: bool) -> jax.Array:
    """By XLA's ragged all-to-all: (input offsets, send sizes, output offsets, receive sizes)."""
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
