"""Every form of the linear recurrence against a loop in float64; resets; what may not pass them."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.kernels.linear_recurrence import linear_recurrence, linear_recurrence_kernels
from jaxlm.kernels.registry import target_platform

B, H = 3, 5
IMPLS = sorted(linear_recurrence_kernels.implementations)
LENGTHS = (1, 2, 13, 64)


def make_args(length: int) -> tuple[np.ndarray, ...]:
    """Decays that reach 0 and 1, inputs, resets in all places, a state to start from."""
    rng = np.random.default_rng(length)
    a = rng.uniform(0, 1, (length, B, H)).astype(np.float32)
    a[rng.random(a.shape) < 0.1] = 0
    a[rng.random(a.shape) < 0.1] = 1
    b = rng.standard_normal(a.shape).astype(np.float32)
    reset = rng.random((length, B)) < 0.2
    reset[:, 0] = False
    return a, b, reset, rng.standard_normal((B, H)).astype(np.float32)


def obvious(a, b, reset, state, d):
    """(states, gradients of sum(states * d) with respect to a, b and state), in float64."""
    a, b, state, d = (x.astype(np.float64) for x in (a, b, state, d))
    h, states = state, []
    for t in range(len(a)):
        h = np.where(reset[t][:, None], b[t], a[t] * h + b[t])
        states.append(h)
    g, d_a, d_b = np.zeros_like(state), np.zeros_like(a), np.zeros_like(b)
    for t in reversed(range(len(a))):
        g = g + d[t]
        d_b[t] = g
        cut = reset[t][:, None]
        d_a[t] = np.where(cut, 0, g * (states[t - 1] if t else state))
        g = np.where(cut, 0, g * a[t])
    return np.stack(states), (d_a, d_b, g)


@cache
def solver(impl: str):
    """A jitted (a, b, reset, state, d) -> (states, gradients)."""

    def loss(a, b, state, reset, d):
        h = linear_recurrence(a, b, reset, state, impl=impl)
        return (h * d).sum(), h

    gradient = jax.grad(loss, (0, 1, 2), has_aux=True)

    @jax.jit
    def solve(a, b, reset, state, d):
        grads, h = gradient(a, b, state, reset, d)
        return h, grads

    return solve


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("impl", IMPLS)
def test_values_and_gradients_equal_a_loop_in_float64(impl, length):
    args = make_args(length)
    d = np.random.default_rng(1).standard_normal(args[0].shape).astype(np.float32)
    states, grads = solver(impl)(*args, d)
    expected_states, expected_grads = obvious(*args, d)
    np.testing.assert_allclose(states, expected_states, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
def test_documents_of_a_row_do_not_touch_each_other_by_a_bit(impl):
    """Neither values nor gradients, wherever the borders fall in the tree; not by NaN or inf."""
    length = 23
    a, b, _, state = make_args(length)
    ones = np.ones_like(a)
    for cut in (1, 8, 11, 22):
        reset = np.zeros((length, B), bool)
        reset[cut] = True
        only_later, only_earlier = ones.copy(), ones.copy()
        only_later[:cut] = 0
        only_earlier[cut:] = 0
        states, later_grads = solver(impl)(a, b, reset, state, only_later)
        earlier_grads = solver(impl)(a, b, reset, state, only_earlier)[1]
        assert not any(np.any(g[:cut]) for g in later_grads[:2]) and not np.any(later_grads[2])
        for poison in (np.nan, np.inf, -3e38, 7.0):
            other_a, other_b, other_state = a.copy(), b.copy(), state.copy()
            other_a[:cut], other_b[:cut], other_state[:] = poison, poison, poison
            found, grads = solver(impl)(other_a, other_b, reset, other_state, only_later)
            np.testing.assert_array_equal(found[cut:], states[cut:])
            for mine, theirs in zip(grads[:2], later_grads[:2], strict=True):
                np.testing.assert_array_equal(mine[cut:], theirs[cut:])
            other_a, other_b = a.copy(), b.copy()
            other_a[cut:], other_b[cut:] = poison, poison
            found, grads = solver(impl)(other_a, other_b, reset, state, only_earlier)
            np.testing.assert_array_equal(found[:cut], states[:cut])
            for mine, theirs in zip(grads[:2], earlier_grads[:2], strict=True):
                np.testing.assert_array_equal(mine[:cut], theirs[:cut])
            np.testing.assert_array_equal(grads[2], earlier_grads[2])


def test_computes_in_float32_and_takes_each_platforms_form():
    a, b, reset, state = make_args(4)
    h = linear_recurrence(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), reset, state)
    assert h.dtype == jnp.float32
    for name, impl in (("cpu", "scan"), ("tpu", "associative"), ("gpu", "associative")):
        with target_platform(name):
            chosen = linear_recurrence_kernels.pick("auto")
        assert chosen is linear_recurrence_kernels.implementations[impl].function


def test_unknown_form_is_a_user_error():
    with pytest.raises(UserError, match="did you mean associative"):
        linear_recurrence(*make_args(2), impl="asociative")
