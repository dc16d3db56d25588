"""minGRU, minLSTM and RG-LRU: the papers' formulas step by step in float64; their start."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.nn.recurrent import CELLS

T, B, D, H = 7, 3, 5, 8
NAMES = [name for name, cell in CELLS.items() if not cell.recurrent_kernel]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def g(x):
    return np.where(x >= 0, x + 0.5, sigmoid(x))


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


def mingru(p, x, h, fresh):
    z = sigmoid(linear(p["update"], x))
    return (1 - z) * h + z * g(linear(p["candidate"], x))


def minlstm(p, x, h, fresh):
    f, i = sigmoid(linear(p["forget"], x)), sigmoid(linear(p["input"], x))
    return f / (f + i) * h + i / (f + i) * g(linear(p["candidate"], x))


def rglru(p, x, h, fresh):
    u = linear(p["input"], x)
    r, i = sigmoid(linear(p["recurrence_gate"], u)), sigmoid(linear(p["input_gate"], u))
    a = np.where(fresh[:, None], 0, sigmoid(p["decay"]) ** (8 * r))
    return a * h + np.sqrt(1 - a**2) * (i * u)


STEPS = {"mingru": mingru, "minlstm": minlstm, "rglru": rglru}


def run(name, params, x, reset, h):
    """The states after every step, in float64."""
    params, x, h = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, x, h))
    states = []
    for t in range(len(x)):
        h = STEPS[name](params, x[t], np.where(reset[t][:, None], 0, h), reset[t])
        states.append(h)
    return np.stack(states)


@cache
def layer_of(name: str):
    """(apply, params): apply(params, x, reset, h) -> (outputs, state), jitted."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: CELLS[name](D, H, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(1)
    draw = lambda x: rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, nnx.to_pure_dict(abstract))

    @jax.jit
    def apply(params, x, reset, h):
        return nnx.merge(graph, params)(x, reset, {"h": h})

    return apply, params


def make_inputs():
    rng = np.random.default_rng(0)
    reset = np.zeros((T, B), bool)
    reset[0, 0] = reset[3, 1] = reset[4, 1] = reset[T - 1, 2] = True
    x, h = rng.standard_normal((T, B, D)), rng.standard_normal((B, H))
    return x.astype(np.float32), reset, h.astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_values_equal_the_formulas(name):
    apply, params = layer_of(name)
    x, reset, h = make_inputs()
    outputs, state = apply(params, x, reset, h)
    expected = run(name, params, x, reset, h)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state["h"], expected[-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences_of_the_formulas(name):
    apply, params = layer_of(name)
    x, reset, h = make_inputs()
    d = np.random.default_rng(2).standard_normal((T, B, H))
    loss = lambda args: (apply(args[0], args[1], reset, args[2]).outputs * d).sum()  # noqa: E731
    args = (params, x, h)
    grads = jax.device_get(jax.jit(jax.grad(loss))(args))
    rng = np.random.default_rng(3)
    for _ in range(4):  # along directions of all parameters, inputs and states together
        way = jax.tree.map(lambda a: rng.standard_normal(a.shape), args)
        ends = []
        for step in (1e-6, -1e-6):
            p, y, s = jax.tree.map(lambda a, w, step=step: a.astype(float) + step * w, args, way)
            ends.append((run(name, p, y, reset, s) * d).sum())
        slope = sum(
            (a * w).sum() for a, w in zip(jax.tree.leaves(grads), jax.tree.leaves(way), strict=True)
        )
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-3)


def test_minimal_cells_start_as_linear_maps_do():
    for name in ("mingru", "minlstm"):
        layer = CELLS[name](64, 48, rngs=nnx.Rngs(0))
        for gate in (*layer.gates, "candidate"):
            kernel = np.asarray(getattr(layer, gate).kernel[...])
            assert kernel.shape == (64, 48) and 0.95 / 8 < np.abs(kernel).max() <= 1 / 8
            assert not np.any(getattr(layer, gate).bias[...])


def test_rglru_starts_as_published():
    layer = CELLS["rglru"](64, 2048, rngs=nnx.Rngs(0))
    decay = np.asarray(jax.nn.sigmoid(layer.decay[...].astype(jnp.float32))) ** 8
    assert 0.9 - 1e-4 < decay.min() < 0.901 and 0.998 < decay.max() < 0.999 + 1e-4
    quarters = np.quantile(decay, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quarters, 0.9 + 0.099 * np.array([0.25, 0.5, 0.75]), atol=0.003)
    assert abs(np.asarray(layer.input.kernel[...]).std() - 1 / 8) < 1e-3
    assert abs(np.asarray(layer.input_gate.kernel[...]).std() - 2048**-0.5) < 1e-4


def test_rglru_that_forgets_nothing_has_finite_gradients():
    """A decay of 1 in float32: the root's slope would be infinite."""
    apply, params = layer_of("rglru")
    x, reset, h = make_inputs()
    params = params | {"decay": np.full(H, 200, np.float32)}
    grads = jax.jit(jax.grad(lambda p: apply(p, x, reset, h).outputs.sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_keeps_float32_gates_and_state(name):
    layer = CELLS[name](D, H, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x, reset, h = make_inputs()
    outputs, state = layer(x, reset, {"h": h})
    assert outputs.dtype == jnp.bfloat16 and state["h"].dtype == jnp.float32
    exact = CELLS[name](D, H, rngs=nnx.Rngs(0))(x, reset, {"h": h}).outputs
    assert np.linalg.norm(outputs.astype(np.float32) - exact) / np.linalg.norm(exact) < 0.02
