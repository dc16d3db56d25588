"""Work on filled rows against the same on all of them, in room where all else is NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.kernels.filled import (
    BLOCK,
    move_filled,
    on_filled,
    room_kernels,
    sorted_by_group,
    turns_of,
    twice_filled,
)

ROOM = 3 * BLOCK


@pytest.fixture(autouse=True)
def no_numbers(monkeypatch):
    """Whoever makes room: what is in it is NaN, and would spoil what it gets into."""

    def room(shapes, at):
        return tuple(jnp.full(shape.shape, jnp.nan, shape.dtype) for shape in shapes)

    monkeypatch.setattr(room_kernels, "pick", lambda impl: room)


def case(filled, *shape, seed=0):
    """Rows [ROOM, ...] of which the first are numbers."""
    x = np.random.default_rng(seed).normal(size=(ROOM, *shape)).astype(np.float32)
    return np.where(np.arange(ROOM).reshape(-1, *(1,) * len(shape)) < filled, x, np.nan)


FILLED = [0, 1, BLOCK, BLOCK + 1, ROOM]


@pytest.mark.parametrize("filled", FILLED)
def test_values_and_gradients_are_those_of_the_function(filled):
    a, b, upstream = (case(filled, 4, seed=n) for n in range(3))

    def function(a, b):
        return jnp.tanh(a) * b

    @jax.jit
    def run(a, b, upstream, filled):
        y, pull = jax.vjp(lambda a, b: on_filled(function, filled, a, b), a, b)
        return y, *pull(upstream)

    want, pull = jax.vjp(function, *(jnp.asarray(x[:filled]) for x in (a, b)))
    got = run(a, b, upstream, filled)
    for x, expected in zip(got, (want, *pull(jnp.asarray(upstream[:filled]))), strict=True):
        np.testing.assert_allclose(x[:filled], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("filled", FILLED)
def test_rows_move_and_their_gradients_move_back(filled):
    x, upstream = case(filled, 2, 3), case(filled, 6, seed=1)
    to = np.arange(ROOM)
    to[:filled] = np.random.default_rng(2).permutation(filled)
    back = np.argsort(to)

    @jax.jit
    def run(x, upstream, filled):
        y, pull = jax.vjp(lambda x: move_filled(x, to, back, filled, (6,)), x)
        return y, *pull(upstream)

    y, dx = run(x, upstream, filled)
    np.testing.assert_array_equal(y[:filled], x.reshape(ROOM, 6)[to[:filled]])
    np.testing.assert_array_equal(dx.reshape(ROOM, 6)[to[:filled]], upstream[:filled])


def test_two_who_use_rows_sum_their_gradients():
    x, first, second = (case(5, 4, seed=n) for n in range(3))
    both, pull = jax.vjp(lambda x: twice_filled(jnp.asarray(5), x), jnp.asarray(x))
    (dx,) = pull((jnp.asarray(first), jnp.asarray(second)))
    for one in both:
        np.testing.assert_array_equal(one, x)
    np.testing.assert_array_equal(dx[:5], (first + second)[:5])


def test_rows_by_sender_are_sorted_by_group():
    sizes = np.random.default_rng(0).integers(0, 4, size=(3, 5))
    sizes[1] = sizes[:, 2] = 0
    group = np.concatenate([np.repeat(np.arange(5), row) for row in sizes])
    to, back = sorted_by_group(jnp.asarray(sizes), len(group) + 7)
    want = np.argsort(group, kind="stable")
    np.testing.assert_array_equal(to[: len(group)], want)
    np.testing.assert_array_equal(back[: len(group)], np.argsort(want))


def test_only_blocks_that_are_filled_are_worked_on():
    """The loop's turns are counted by the program, not by the room; its name tells the room's."""
    x = case(ROOM, 2)
    text = jax.jit(lambda x, n: on_filled(jnp.tanh, n, x)).lower(x, 5).as_text(debug_info=True)
    names = {name for name in text.split('"') if turns_of(name) is not None}
    assert names and {turns_of(name) for name in names} == {3}
    y = jax.jit(lambda x, n: on_filled(jnp.tanh, n, x))(x, BLOCK + 1)
    assert np.isnan(y[2 * BLOCK :]).all() and not np.isnan(y[: 2 * BLOCK]).any()
