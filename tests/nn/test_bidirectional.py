"""Layers that read both ways, against torch; documents of a row; padding on either side."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.nn.bidirectional import Ends, Reader
from jaxlm.nn.recurrent import CELLS
from tests.models import golden_seq2seq as golden_files

D, H = 5, 6


def rows(*segments: list[int]):
    """(positions, segment_ids) [B, T] of rows with these segment ids; padding is 0."""
    ids = np.asarray(segments, np.int32)
    places = np.zeros_like(ids)
    for t in range(1, ids.shape[1]):
        same = (ids[:, t] == ids[:, t - 1]) & (ids[:, t] > 0)
        places[:, t] = np.where(same, places[:, t - 1] + 1, 0)
    return places, ids


@cache
def reader_of(cell: str, both: bool = True):
    """(read, params): read(params, x, positions, segment_ids) -> (states, last states)."""
    make = lambda: Reader(cell, D, H, bidirectional=both, rngs=nnx.Rngs(0))  # noqa: E731
    graph, abstract = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(1)
    draw = lambda x: 0.4 * rng.standard_normal(x.shape).astype(np.float32)  # noqa: E731

    @jax.jit
    def read(params, x, positions, segment_ids):
        ends = Ends.of(positions, segment_ids)
        states = nnx.merge(graph, params)(x, ends)
        return states, ends.last_states(states, H)

    return read, jax.tree.map(draw, nnx.to_pure_dict(abstract))


def make_x(length: int, batch: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((length, batch, D)).astype(np.float32)


@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
def test_two_layers_equal_torch_in_values_and_gradients(cell):
    golden = golden_files.load(f"bidirectional_{cell}")
    x, lengths = golden["x"], golden["lengths"]
    ids = (np.arange(len(x)) < lengths[:, None]).astype(np.int32)
    positions, real = np.arange(len(x)) * ids, ids.T[..., None]
    graphs = [
        nnx.split(
            nnx.eval_shape(
                lambda width=width: Reader(cell, width, H, bidirectional=True, rngs=nnx.Rngs(0))
            )
        )[0]
        for width in (D, 2 * H)
    ]

    def loss(params, x):
        ends, total, lasts = Ends.of(jnp.asarray(positions), jnp.asarray(ids)), 0.0, []
        for i, graph in enumerate(graphs):
            states = nnx.merge(graph, params[i])(x, ends)
            last = {name: s[0] for name, s in ends.last_states(states, H).items()}
            for name, end in last.items():  # torch: [layers * directions, B, H]
                d_end = golden[f"d_{name}_n"][2 * i : 2 * i + 2]
                total += (jnp.stack(jnp.split(end, 2, axis=-1)) * d_end).sum()
            x = states["h"]
            lasts.append(last)
        return total + (x * golden["d_outputs"] * real).sum(), (x, lasts)

    params = [golden_files.reader(golden, "", i) for i in range(2)]
    gradient = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (d_params, d_x), (outputs, lasts) = gradient(params, x)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    close(outputs * real, golden["outputs"])
    close(d_x * real, golden["grad_x"])
    for i in range(2):
        for name, end in lasts[i].items():
            close(np.stack(np.split(end, 2, axis=-1)), golden[f"{name}_n"][2 * i : 2 * i + 2])
        jax.tree.map(close, d_params[i], golden_files.reader(golden, "", i, grad=True))


@pytest.mark.parametrize("cell", CELLS)
def test_documents_of_a_row_do_not_touch_each_other_by_a_bit(cell):
    read, params = reader_of(cell)
    positions, ids = rows([1, 1, 1, 2, 2, 2, 2, 3, 0, 0])
    x = make_x(10)
    states, last = read(params, x, positions, ids)
    other = x.copy()
    other[3:7] = np.nan
    changed, changed_last = read(params, other, positions, ids)
    for a, b in ((states, changed), (last, changed_last)):
        for name in a:
            kept = np.r_[0:3, 7:8]
            np.testing.assert_array_equal(b[name][kept], a[name][kept])
            assert not np.isfinite(b[name][3:7]).all()
    for begin, end in ((0, 3), (3, 7), (7, 8)):  # alone, with padding on both sides
        own = np.arange(10)[:, None, None]
        own = np.where((own >= begin) & (own < end), x, np.float32(9))
        alone, _ = read(params, own, *rows([0] * begin + [1] * (end - begin) + [0] * (10 - end)))
        alone = alone["h"][begin:end]
        np.testing.assert_allclose(states["h"][begin:end], alone, rtol=1e-5, atol=1e-6)
        both = np.concatenate([alone[-1, :, :H], alone[0, :, H:]], axis=-1)
        for place in range(begin, end):
            np.testing.assert_allclose(last["h"][place], both, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_padding_on_either_side_changes_nothing(cell):
    """The backward pass begins at the document's end; what is in the padding does not matter."""
    read, params = reader_of(cell)
    x = make_x(4)
    plain, plain_last = read(params, x, *rows([1] * 4))
    for left, right in ((0, 6), (6, 0), (2, 4)):  # of the length of the rows above: one program
        padding = np.full((left + 4 + right, 1, D), 1e3, np.float32)
        padding[left : left + 4] = x
        states, last = read(params, padding, *rows([0] * left + [1] * 4 + [0] * right))
        for name in plain:
            np.testing.assert_allclose(
                states[name][left : left + 4], plain[name], rtol=1e-5, atol=1e-6
            )
            np.testing.assert_allclose(
                last[name][left : left + 4], plain_last[name], rtol=1e-5, atol=1e-6
            )


def test_one_way_is_the_layer_alone():
    read, params = reader_of("lstm", both=False)
    positions, ids = rows([1, 1, 1, 2, 2])
    x = make_x(5)
    states, last = read(params, x, positions, ids)
    layer = CELLS["lstm"](D, H, rngs=nnx.Rngs(0))
    nnx.update(layer, nnx.state(nnx.merge(nnx.split(layer)[0], params["forward"])))
    alone = layer(x, (positions == 0).T, layer.init_state(1))
    np.testing.assert_allclose(states["h"], alone.outputs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(last["c"][4], alone.state["c"], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(last["c"][0], states["c"][2])
