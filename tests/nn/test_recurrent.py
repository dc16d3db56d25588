"""Recurrent layers against torch; weight and word dropout; initialisation."""

from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.nn.recurrent import CELLS, word_dropout
from tests.nn import golden_rnn

T, B, D, H = 6, 2, 5, 8
GATED = [name for name, cell in CELLS.items() if cell.recurrent_kernel]


@cache
def layer_of(cell: str, weight_dropout: float = 0.0):
    """(apply, params) of a layer: apply(params, x, state, key) -> (outputs, state), jitted."""

    def make():
        return CELLS[cell](D, H, weight_dropout=weight_dropout, rngs=nnx.Rngs(0))

    graph, abstract = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(1)
    draw = lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, nnx.to_pure_dict(abstract))

    @jax.jit
    def apply(params, x, state=None, key=None):
        layer = nnx.merge(graph, params)
        state = layer.init_state(x.shape[1]) if state is None else state
        return layer(x, jnp.zeros(x.shape[:2], bool), state, key=key)

    return apply, params


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((T, B, D)).astype(np.float32)


@pytest.mark.parametrize("name", golden_rnn.CASES)
def test_two_layers_equal_torch_in_values_and_gradients(name):
    """Over 540 tokens, from a state, with gradients of its and of the last states."""
    found = golden_rnn.errors(name)
    assert found["hidden"] < 1e-5 and found["gradients"] < 1e-5


@pytest.mark.parametrize("cell", GATED)
def test_one_weight_mask_for_all_steps(cell, x):
    apply, params = layer_of(cell, 0.5)
    key = jax.random.key(3)
    outputs, end = apply(params, x, key=key)
    state, steps = jax.tree.map(np.zeros_like, end), []
    for t in range(T):
        y, state = apply(params, x[t : t + 1], state, key)
        steps.append(np.asarray(y))
    close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    close(outputs, np.concatenate(steps))
    jax.tree.map(close, end, state)


@pytest.mark.parametrize("cell", GATED)
def test_weight_dropout_is_off_without_a_key_and_differs_by_key(cell, x):
    apply, params = layer_of(cell, 0.5)
    plain = np.asarray(layer_of(cell)[0](params, x).outputs)
    np.testing.assert_array_equal(apply(params, x).outputs, plain)
    a, b, c = (np.asarray(apply(params, x, key=jax.random.key(i)).outputs) for i in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3 and np.abs(a - plain).max() > 1e-3
    # the state is zero at the first step, so the recurrent weights do not matter yet
    np.testing.assert_array_equal(a[0], c[0])


def test_dropped_weights_get_no_gradient_and_kept_ones_are_scaled(x):
    apply, params = layer_of("elman", 0.25)
    key = jax.random.key(5)
    grad = jax.jit(jax.grad(lambda p: apply(p, x, key=key).outputs.sum()))(params)
    kept = np.asarray(grad["recurrent"]["kernel"] != 0)
    assert 0.6 < kept.mean() < 0.9
    kernel = np.where(kept, params["recurrent"]["kernel"] / 0.75, 0)
    plain = layer_of("elman")[0](params | {"recurrent": {"kernel": kernel}}, x)
    dropped = apply(params, x, key=key)
    np.testing.assert_allclose(dropped.outputs, plain.outputs, rtol=1e-6, atol=1e-6)


def test_word_dropout_drops_whole_words_everywhere():
    vocab, rate = 200, 0.3
    tokens = jax.random.randint(jax.random.key(0), (50, 20), 0, vocab)
    x = jnp.ones((50, 20, 4))
    y = np.asarray(word_dropout(x, tokens, vocab, rate, jax.random.key(1)))
    values = {int(w): {tuple(row) for row in y[np.asarray(tokens) == w]} for w in np.unique(tokens)}
    assert all(len(rows) == 1 for rows in values.values())  # one fate for every place of a word
    rows = np.asarray([next(iter(rows)) for rows in values.values()])
    assert set(np.unique(rows.round(5))) == {0.0, np.float32(1 / 0.7).round(5)}
    assert 0.2 < (rows[:, 0] == 0).mean() < 0.4
    np.testing.assert_array_equal(word_dropout(x, tokens, vocab, rate, None), x)


@pytest.mark.parametrize("cell", GATED)
def test_initialisation(cell):
    hidden, gates = 64, CELLS[cell].num_gates

    @jax.jit
    def build():
        layers = [
            CELLS[cell](D, hidden, initializer=name, rngs=nnx.Rngs(0))
            for name in ("uniform", "orthogonal")
        ]
        return [nnx.to_pure_dict(nnx.split(layer)[1]) for layer in layers]

    uniform, orthogonal = jax.device_get(build())
    for part in ("input", "recurrent"):
        kernel = uniform[part]["kernel"]
        assert 0.95 / 8 < np.abs(kernel).max() <= 1 / 8
        assert abs(kernel.std() - 1 / 8 / 3**0.5) < 0.01
    for u in np.split(orthogonal["recurrent"]["kernel"], gates, axis=1):
        np.testing.assert_allclose(u @ u.T, np.eye(hidden), atol=1e-5)
    expected = np.zeros(gates * hidden, np.float32)
    if cell == "lstm":
        expected[hidden : 2 * hidden] = 1
    np.testing.assert_array_equal(uniform["input"]["bias"], expected)
