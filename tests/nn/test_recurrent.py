"""Recurrent layers against torch; weight and word dropout; initialisation."""

from __future__ import annotations

import golden_rnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.nn.recurrent import CELLS, word_dropout

T, B, D, H = 6, 2, 5, 8


def layer_of(cell: str, **options):
    return CELLS[cell](D, H, rngs=nnx.Rngs(0), **options)


def run(layer, x, state=None, key=None):
    reset = jnp.zeros(x.shape[:2], bool)
    return layer(x, reset, layer.init_state(x.shape[1]) if state is None else state, key=key)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(1), (T, B, D))


@pytest.mark.parametrize("name", golden_rnn.NAMES)
def test_two_layers_equal_torch_in_values_and_gradients(name):
    golden = golden_rnn.load(name)
    cell, _, activation = name.partition("_")
    hidden = golden["h_0"].shape[-1]
    widths = (golden["x"].shape[-1], hidden, hidden)
    graphs = [
        nnx.split(CELLS[cell](*widths[i:][:2], activation=activation or "tanh", rngs=nnx.Rngs(0)))[
            0
        ]
        for i in range(2)
    ]
    params = [golden_rnn.params(golden, i) for i in range(2)]
    states = [golden_rnn.state(golden, i) for i in range(2)]

    def loss(params, x, states):
        ends = []
        for graph, p, state in zip(graphs, params, states, strict=True):
            x, end = run(nnx.merge(graph, p), x, state)
            ends.append(end)
        total = (x * golden["d_outputs"]).sum()
        for i, end in enumerate(ends):
            total += sum((end[n] * golden[f"d_{n}_n"][i]).sum() for n in end)
        return total, (x, ends)

    gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    (d_params, d_x, d_states), (outputs, ends) = gradient(params, golden["x"], states)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    close(outputs, golden["outputs"])
    close(d_x, golden["grad_x"])
    for i in range(2):
        jax.tree.map(close, ends[i], golden_rnn.state(golden, i, "n"))
        jax.tree.map(close, d_params[i], golden_rnn.grads(golden, i))
        for n in d_states[i]:
            close(d_states[i][n], golden[f"grad_{n}_0"][i])


@pytest.mark.parametrize("cell", CELLS)
def test_one_weight_mask_for_all_steps(cell, x):
    layer, key = layer_of(cell, weight_dropout=0.5), jax.random.key(3)
    outputs, end = run(layer, x, key=key)
    state, steps = None, []
    for t in range(T):
        y, state = run(layer, x[t : t + 1], state, key=key)
        steps.append(y)
    np.testing.assert_allclose(outputs, jnp.concatenate(steps), rtol=1e-6, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), end, state)


@pytest.mark.parametrize("cell", CELLS)
def test_weight_dropout_is_off_without_a_key_and_differs_by_key(cell, x):
    layer = layer_of(cell, weight_dropout=0.5)
    np.testing.assert_array_equal(run(layer, x).outputs, run(layer_of(cell), x).outputs)
    dropped = [run(layer, x, key=jax.random.key(i)).outputs for i in (0, 0, 1)]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 1e-3
    assert np.abs(dropped[0] - run(layer, x).outputs).max() > 1e-3
    # the state is zero at the first step, so the recurrent weights do not matter yet
    np.testing.assert_array_equal(dropped[0][0], dropped[2][0])


def test_dropped_weights_get_no_gradient_and_kept_ones_are_scaled(x):
    layer = layer_of("elman", weight_dropout=0.25)
    graph, params = nnx.split(layer)
    params, key = nnx.to_pure_dict(params), jax.random.key(5)
    grad = jax.grad(lambda p: run(nnx.merge(graph, p), x, key=key).outputs.sum())(params)
    kept = np.asarray(grad["recurrent"]["kernel"] != 0)
    assert 0.6 < kept.mean() < 0.9
    plain = layer_of("elman")
    plain.recurrent.kernel.set_value(jnp.where(kept, params["recurrent"]["kernel"] / 0.75, 0))
    np.testing.assert_allclose(
        run(layer, x, key=key).outputs, run(plain, x).outputs, rtol=1e-6, atol=1e-6
    )


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


@pytest.mark.parametrize("cell", CELLS)
def test_initialisation(cell):
    hidden = 64
    uniform = CELLS[cell](D, hidden, rngs=nnx.Rngs(0))
    for kernel in (uniform.input.kernel[...], uniform.recurrent.kernel[...]):
        assert 0.95 / 8 < float(jnp.abs(kernel).max()) <= 1 / 8
        assert abs(float(kernel.std()) - 1 / 8 / 3**0.5) < 0.01
    orthogonal = CELLS[cell](D, hidden, initializer="orthogonal", rngs=nnx.Rngs(0))
    for u in jnp.split(orthogonal.recurrent.kernel[...], orthogonal.num_gates, axis=1):
        np.testing.assert_allclose(u @ u.T, np.eye(hidden), atol=1e-5)
    bias = np.asarray(uniform.input.bias[...])
    expected = np.zeros_like(bias)
    if cell == "lstm":
        expected[hidden : 2 * hidden] = 1
    np.testing.assert_array_equal(bias, expected)
