"""Work on the filled rows of a buffer with room for many more: experts' received tokens.

    y = on_filled(function, filled, x)                      # [R, F] -> [R, F], row by row
    to, back = sorted_by_group(sizes, R)                    # permutation by group, and its inverse
    y = move_filled(x, to, back, filled, (D,))              # [R, ...] -> [R, D]: y[i] = x[to[i]]

The first `filled` rows of each array have values; the rows after them may hold anything, in inputs
and outputs. A loop processes only as many blocks as are filled. XLA alone would process the whole
buffer, which is eight times the filled rows with eight equally loaded devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxlm.kernels.registry import Kernel

BLOCK = 2048  # rows at most: a few MB, and a loop of many turns where there are many rows
ROOM = "room_for_rows"  # the name of the kernel that makes room
SCOPE = "filled_rows_of"  # the loops' name, with the iterations for a full buffer


def on_filled(function: Callable[..., jax.Array], filled: jax.Array, *rows: jax.Array) -> jax.Array:
    """`function` of rows [R, ...]; row i of its result must depend on row i of its inputs only."""
    return _on_filled(function, filled, rows)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _on_filled(
    function: Callable[..., jax.Array], filled: jax.Array, rows: tuple[jax.Array, ...]
) -> jax.Array:
    like = jax.eval_shape(function, *rows)
    return _blocks(lambda *x: (function(*x[:-1]),), filled, rows, room_for(like, at=rows[0]))[0]


def _on_filled_backward(function, saved, gradient):  # type: ignore[no-untyped-def]
    filled, rows = saved

    def pull(gradient: jax.Array, *rows: jax.Array) -> tuple[jax.Array, ...]:
        return jax.vjp(function, *rows)[1](gradient)

    return None, _blocks(pull, filled, (gradient,), rows)  # in place: no further buffer


_on_filled.defvjp(
    lambda function, filled, rows: (_on_filled(function, filled, rows), (filled, rows)),
    _on_filled_backward,
)


@jax.custom_vjp
def twice_filled(filled: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two copies of the rows; the gradient is the sum of theirs, over the filled rows."""
    return x, x


twice_filled.defvjp(
    lambda filled, x: ((x, x), filled),
    lambda filled, both: (None, *_blocks(lambda a, b: (a + b,), filled, both[:1], both[1:])),
)


def move_filled(
    x: jax.Array,  # [R, ...]
    to: jax.Array,  # [R] int
    back: jax.Array,  # [R] int: the inverse
    filled: jax.Array,
    shape: Sequence[int],  # a row's shape in the result
) -> jax.Array:
    """The rows of x in the order `to`; the gradient moves them back."""
    return _move(tuple(shape), x, to, back, filled)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _move(
    shape: tuple[int, ...], x: jax.Array, to: jax.Array, back: jax.Array, filled: jax.Array
) -> jax.Array:
    room = room_for(jax.ShapeDtypeStruct((len(to), *shape), x.dtype), at=x)
    return _blocks(lambda index, _: (x[index].reshape(-1, *shape),), filled, (to,), room)[0]


def _move_forward(shape, x, to, back, filled):  # type: ignore[no-untyped-def]
    return _move(shape, x, to, back, filled), (x[:0], to, back, filled)


def _move_backward(shape, saved, gradient):  # type: ignore[no-untyped-def]
    none, to, back, filled = saved
    return _move(none.shape[1:], gradient, back, to, filled), None, None, None


_move.defvjp(_move_forward, _move_backward)


def _blocks(
    function: Callable[..., tuple[jax.Array, ...]],
    filled: jax.Array,
    given: Sequence[jax.Array],
    rooms: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    """Applies `function` block by block to the filled rows, and writes into the buffers."""
    room = len(rooms[0])
    size = next(n for n in range(min(BLOCK, room), 0, -1) if room % n == 0)

    def one(turn: jax.Array, rooms: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        start = turn * size
        parts = (jax.lax.dynamic_slice_in_dim(x, start, size) for x in (*given, *rooms))
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(all_rows, block, start, 0)
            for all_rows, block in zip(rooms, function(*parts), strict=True)
        )

    with jax.named_scope(f"{SCOPE}_{room // size}"):
        return jax.lax.fori_loop(0, -(-filled // size), one, rooms)


room_kernels = Kernel("room")


def room_for(*shapes: jax.ShapeDtypeStruct, at: jax.Array, impl: str = "auto") -> tuple:
    """Uninitialized arrays of these shapes, allocated after `at` is computed.

    A loop that fills an array updates it in place. XLA copies an array that two loops share, or
    that is allocated outside of an enclosing loop.
    """
    return room_kernels.pick(impl)(shapes, at)


@room_kernels.register("reference")
def _zeros(shapes: Sequence[jax.ShapeDtypeStruct], at: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jnp.zeros(shape.shape, shape.dtype) for shape in shapes)


@room_kernels.register("untouched", auto_on=("tpu",))
def _untouched(shapes: Sequence[jax.ShapeDtypeStruct], at: jax.Array) -> tuple[jax.Array, ...]:
    """A kernel that writes nothing."""
    from jax.experimental import pallas as pl

    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    run = pl.pallas_call(
        lambda *_: None,
        tuple(shapes),
        in_specs=[anywhere],
        out_specs=(anywhere,) * len(shapes),
        name=ROOM,
    )
    return tuple(run(at))


def sorted_by_group(sizes: jax.Array, room: int) -> tuple[jax.Array, jax.Array]:
    """(to, back) [R]: the permutation from the order (sender, group) [P, n] to (group, sender)."""
    by_sender = jnp.cumsum(sizes).reshape(sizes.shape)
    by_group = jnp.cumsum(sizes.T).reshape(sizes.T.shape).T
    shift = by_sender - by_group  # between a row's places in the two orders

    def places(ends: jax.Array, shift: jax.Array) -> jax.Array:
        row = jnp.arange(room)
        part = jnp.searchsorted(ends, row, side="right", method="compare_all")
        return jnp.clip(row + jnp.take(shift, part, mode="clip"), 0, room - 1)

    to = places(by_group.T.reshape(-1), shift.T.reshape(-1))
    return to, places(by_sender.reshape(-1), -shift.reshape(-1))


def turns_of(scopes: str) -> int | None:
    """The iterations for a full buffer of a loop with this name; None: not one of these loops."""
    for scope in scopes.split("/"):
        if scope.startswith(SCOPE):
            return int(scope.removeprefix(f"{SCOPE}_"))
    return None
