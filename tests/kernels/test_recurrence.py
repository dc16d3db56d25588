"""The custom backward pass against autodiff of the plain loop; resets; dtypes.

The cells' own arithmetic is compared with torch's in tests/nn/test_recurrent.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.kernels import recurrence

T, B, H = 11, 3, 6
CELLS = ("lstm", "gru", "tanh", "relu")
GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}


def make_args(cell: str, dtype=np.float32) -> dict:
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    width = GATES[cell] * H
    args = {
        "gates_x": normal(T, B, width).astype(dtype),
        "kernel": (normal(H, width) / H**0.5).astype(dtype),
        "state": {"h": normal(B, H)},
    }
    if cell == "lstm":
        args["state"]["c"] = normal(B, H)
    if cell == "gru":
        args["bias"] = normal(H)
    return args


def make_reset() -> np.ndarray:
    """At a first step, in the middle, two in a row, at the last step; one row has none."""
    reset = np.zeros((T, B), bool)
    reset[0, 0] = reset[4, 0] = reset[5, 0] = reset[7, 1] = reset[T - 1, 1] = True
    return reset


def run(cell: str, args: dict, reset, **options) -> recurrence.Result:
    x, kernel, state = args["gates_x"], args["kernel"], args["state"]
    if cell == "lstm":
        return recurrence.lstm(x, kernel, reset, state, **options)
    if cell == "gru":
        return recurrence.gru(x, kernel, args["bias"], reset, state, **options)
    return recurrence.elman(x, kernel, reset, state, activation=cell, **options)


def values_and_grads(cell: str, args: dict, **options):
    """Outputs, last state, and gradients of a loss that weighs each element differently."""
    rng = np.random.default_rng(1)

    def loss(args: dict):
        result = run(cell, args, make_reset(), **options)
        leaves = [x.astype(jnp.float32) for x in jax.tree.leaves(result)]
        return sum((x * rng.standard_normal(x.shape)).sum() for x in leaves), result

    grads, result = jax.grad(loss, has_aux=True)(args)
    return result, grads


def distance(a, b, norm=lambda x: np.abs(x).max()) -> float:
    """Largest over the leaves of the difference relative to the value."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(norm(np.asarray(x, np.float32) - y) / norm(np.asarray(y))) for x, y in pairs)


@pytest.mark.parametrize("cell", CELLS)
def test_scan_equals_reference_in_values_and_gradients(cell):
    @jax.jit
    def both(args):
        options = ({"impl": "reference"}, {"impl": "scan"}, {"impl": "scan", "unroll": 4})
        return [values_and_grads(cell, args, **o) for o in options]

    args = make_args(cell)
    plain, *fast = jax.device_get(both(args))
    for result, grads in fast:
        assert distance(result, plain[0]) < 1e-6
        assert jax.tree.structure(grads) == jax.tree.structure(args)
        assert distance(grads, plain[1]) < 2e-6


def test_every_state_is_that_of_shorter_runs_and_has_the_same_gradients():
    args, reset = make_args("lstm"), make_reset()
    some = np.array([0, 1, 5, T - 1])  # a reset is before, at and after them
    weights = np.random.default_rng(2).standard_normal((len(some), B, H)).astype(np.float32)

    def every(args, impl):
        state = args["state"]
        how = {"every_state": True, "impl": impl}
        cell = recurrence.LSTM()
        return recurrence.recur(cell, args["gates_x"], args["kernel"], None, reset, state, **how)

    def shorter(args):
        runs = [
            run("lstm", args | {"gates_x": args["gates_x"][: t + 1]}, reset[: t + 1]) for t in some
        ]
        return jnp.stack([r.state["c"] for r in runs])

    def values_and_grads(cells):
        return cells(args), jax.grad(lambda args: (cells(args) * weights).sum())(args)

    @jax.jit
    def all_of_them():
        return [
            values_and_grads(lambda args, impl=impl: every(args, impl).states["c"][some])
            for impl in ("scan", "reference")
        ] + [values_and_grads(shorter)]

    scan, reference, expected = jax.device_get(all_of_them())
    for found in (scan, reference):
        assert distance(found[0], expected[0]) < 1e-6
        assert distance(found[1], expected[1]) < 2e-6


@pytest.mark.parametrize("cell", CELLS)
def test_kernel_gradient_is_not_formed_in_the_time_loop(cell):
    args = make_args(cell)
    kernel_shape = sorted(args["kernel"].shape)

    def formed_in_loop(impl: str) -> bool:
        jaxpr = jax.make_jaxpr(lambda args: values_and_grads(cell, args, impl=impl))(args)
        loops = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "scan"]
        assert len(loops) == 2  # forward and backward
        inner = [eqn for loop in loops for eqn in loop.params["jaxpr"].jaxpr.eqns]
        products = [eqn for eqn in inner if eqn.primitive.name == "dot_general"]
        assert products
        return any(sorted(eqn.outvars[0].aval.shape) == kernel_shape for eqn in products)

    assert formed_in_loop("reference") and not formed_in_loop("scan")


@pytest.mark.parametrize("cell", CELLS[:3])
def test_reset_begins_a_run_of_its_own(cell):
    args, cut = make_args(cell), 4
    reset = np.zeros((T, B), bool)
    reset[cut] = True
    go = jax.jit(lambda args, reset: run(cell, args, reset))
    whole = go(args, reset)
    zeros = jax.tree.map(np.zeros_like, args["state"])
    first = go(args | {"gates_x": args["gates_x"][:cut]}, np.zeros((cut, B), bool))
    second = go(
        args | {"gates_x": args["gates_x"][cut:], "state": zeros}, np.zeros((T - cut, B), bool)
    )
    np.testing.assert_array_equal(whole.outputs[:cut], first.outputs)
    np.testing.assert_array_equal(whole.outputs[cut:], second.outputs)
    jax.tree.map(np.testing.assert_array_equal, whole.state, second.state)


@pytest.mark.parametrize("cell", CELLS[:3])
def test_nothing_passes_a_reset_in_either_direction(cell):
    args, cut = make_args(cell), 4
    reset = np.zeros((T, B), bool)
    reset[cut] = True

    @jax.jit
    def later(args):
        def loss(args):
            outputs = run(cell, args, reset).outputs[cut:]
            return outputs.sum(), outputs

        return jax.grad(loss, has_aux=True)(args)

    grads, _ = later(args)
    assert not np.any(grads["gates_x"][:cut]) and np.any(grads["gates_x"][cut:])
    assert not any(np.any(g) for g in jax.tree.leaves(grads["state"]))
    poisoned = args["gates_x"].copy()
    poisoned[0] = np.nan
    assert np.isfinite(later(args | {"gates_x": poisoned})[1]).all()


@pytest.mark.parametrize("cell", CELLS[:3])
def test_bfloat16_keeps_a_float32_state(cell):
    go = jax.jit(lambda args: values_and_grads(cell, args))
    result, grads = go(make_args(cell, jnp.bfloat16))
    exact_result, exact_grads = go(make_args(cell))
    assert result.outputs.dtype == jnp.bfloat16
    assert {s.dtype for s in result.state.values()} == {jnp.dtype("float32")}
    assert grads["kernel"].dtype == jnp.bfloat16 and grads["state"]["h"].dtype == jnp.float32
    assert distance(result, exact_result) < 0.03
    assert distance(grads, exact_grads, np.linalg.norm) < 0.03


def test_state_accumulates_in_float32_where_bfloat16_would_stall():
    """c grows from 1 by 2**-10 a step; bfloat16 has no number between 1 and 1 + 2**-7."""
    steps, gate = 64, np.float32(30)  # sigmoid(30) = 1
    pre = np.arctanh(np.float32(2**-10))
    gates_x = np.zeros((steps, 1, 4), jnp.bfloat16)
    gates_x[:] = [gate, gate, pre, gate]
    state = {"h": np.zeros((1, 1), np.float32), "c": np.ones((1, 1), np.float32)}
    kernel = np.zeros((1, 4), jnp.bfloat16)
    _, end = recurrence.lstm(gates_x, kernel, np.zeros((steps, 1), bool), state)
    np.testing.assert_allclose(end["c"], 1 + steps * 2**-10, rtol=1e-4)


def test_unknown_implementation_is_a_user_error():
    with pytest.raises(UserError, match="scan"):
        run("lstm", make_args("lstm"), make_reset(), impl="scam")
