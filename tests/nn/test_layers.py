"""Dense, embedding, norms, dropout and positions, each against a closed form or torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.nn.dense import Dense
from jaxlm.nn.dropout import dropout, split_key
from jaxlm.nn.embed import Embedding
from jaxlm.nn.ffn import ACTIVATIONS, DenseConfig
from jaxlm.nn.norm import LayerNorm, RMSNorm
from jaxlm.nn.params import split
from jaxlm.nn.position import (
    LearnedConfig,
    RotaryConfig,
    Rows,
    apply_rotary,
    restart,
    sinusoidal,
)
from jaxlm.nn.rope_scaling import LinearScaling
from tests.nn.golden_nn import assert_close, load, under

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_dense_contracts_named_dims():
    heads = Dense({"embed": 6}, {"heads": 2, "head_dim": 3}, bias=True, rngs=nnx.Rngs(0))
    heads.bias.set_value(normal(2, 3))
    x = normal(2, 5, 6)
    want = np.einsum("BTD,DNH->BTNH", x, heads.kernel.get_value()) + heads.bias.get_value()
    assert_close(heads(x), want)
    out = Dense({"heads": 2, "head_dim": 3}, {"embed": 6}, rngs=nnx.Rngs(0))
    y = normal(2, 5, 2, 3)
    assert_close(out(y), np.einsum("BTNH,NHD->BTD", y, out.kernel.get_value()))
    _, params, axes = split(heads)
    assert axes == {"kernel": ("embed", "heads", "head_dim"), "bias": ("heads", "head_dim")}
    assert params["kernel"].dtype == jnp.float32


@pytest.mark.parametrize(("std", "scale", "want"), [(None, 1.0, 0.1), (0.02, 0.5, 0.01)])
def test_dense_starts_with_the_stated_deviation(std, scale, want):
    dense = Dense({"embed": 100}, {"mlp": 300}, std=std, scale=scale, rngs=nnx.Rngs(0))
    kernel = np.asarray(dense.kernel.get_value())
    assert kernel.std() == pytest.approx(want, rel=0.02)
    assert abs(kernel.mean()) < 0.02 * want


def test_embedding_looks_up_and_attends():
    embed = Embedding(7, 4, std=1.0, rngs=nnx.Rngs(0))
    table = np.asarray(embed.table.get_value())
    tokens = jnp.asarray([[0, 6, 3]])
    assert (np.asarray(embed(tokens)) == table[tokens]).all()
    assert (np.asarray(embed.attend()) == table.T).all()
    assert np.isnan(embed(jnp.asarray([[7]]))).all()


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_norms_are_torchs(name):
    golden = load("nn_norm")
    want = under(golden, name)
    norm = LayerNorm(12, eps=1e-3) if name == "layer" else RMSNorm(12, eps=1e-3)
    graphdef, params, _ = split(norm)
    params = {key: golden[key] for key in params}

    def loss(params, x):
        y = nnx.merge(graphdef, params)(x)
        return jnp.sum(y * golden["cotangent"]), y

    (grads, dx), y = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, golden["x"])
    assert_close(y, want["out"])
    assert_close(dx, want["dx"])
    for key, grad in grads.items():
        assert_close(grad, want[f"d{key}"])


def test_rms_norm_may_store_its_scale_less_one():
    plain, offset = RMSNorm(6), RMSNorm(6, offset=1.0)
    assert not np.asarray(offset.scale.get_value()).any()
    scale = normal(6)
    plain.scale.set_value(scale)
    offset.scale.set_value(scale - 1)
    x = normal(3, 6)
    assert_close(plain(x), offset(x))


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm])
def test_norm_statistics_are_float32(make):
    x = (normal(4, 512) + 100).astype(jnp.bfloat16)
    y = make(512)(x)
    wide = make(512)(x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    assert (y == wide.astype(jnp.bfloat16)).all()


def test_dropout_rate_mean_and_keys():
    x = jnp.ones((64, 256))
    key, other = split_key(jax.random.key(0), 2)
    y = np.asarray(dropout(x, 0.25, key))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert (y == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert (y == np.asarray(dropout(x, 0.25, key))).all()
    assert (y != np.asarray(dropout(x, 0.25, other))).any()
    assert dropout(x, 0.25, None) is x and dropout(x, 0.0, key) is x
    assert split_key(None, 3) == (None, None, None)


def test_dropout_shares_a_mask_along_dims():
    y = np.asarray(dropout(jnp.ones((4, 9, 32)), 0.5, jax.random.key(0), shared_dims=(1,)))
    assert (y == y[:, :1]).all() and (y[0] != y[1]).any()


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("fraction", "scaling"), [(1.0, 1.0), (0.5, 4.0)])
def test_rotary_is_a_product_of_complex_numbers(interleaved, fraction, scaling):
    x, positions = normal(2, 5, 3, 8), jnp.asarray([[0, 1, 2, 3, 4], [7, 0, 1, 900, 5]])
    stretch = None if scaling == 1.0 else LinearScaling(factor=scaling)
    config = RotaryConfig(theta=100.0, fraction=fraction, scaling=stretch)
    rotary = config.angles(Rows(positions, jnp.ones_like(positions)), 8)
    got = apply_rotary(x, rotary, interleaved=interleaved)
    size = int(8 * fraction)
    part = np.asarray(x, np.float64)[..., :size]
    a, b = (
        (part[..., ::2], part[..., 1::2])
        if interleaved
        else (part[..., : size // 2], part[..., size // 2 :])
    )
    angles = np.asarray(positions)[..., None] / scaling / 100.0 ** (np.arange(0, size, 2) / size)
    turned = (a + 1j * b) * np.exp(1j * angles)[:, :, None]
    parts = [turned.real, turned.imag]
    part = np.stack(parts, -1).reshape(part.shape) if interleaved else np.concatenate(parts, -1)
    assert_close(got, np.concatenate([part, x[..., size:]], -1), 1e-4)


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = normal(1, 1, 1, 16), normal(1, 1, 1, 16)

    def score(i, j):
        turned = (
            apply_rotary(x, RotaryConfig().angles(Rows(jnp.asarray([[at]]), jnp.ones(1)), 16))
            for x, at in ((q, i), (k, j))
        )
        return float(jnp.vdot(*turned))

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(10, 4), abs=1e-2)


def test_learned_and_sinusoidal_positions():
    learned = LearnedConfig(max_seq_len=4).build(6, 1, std=1.0, rngs=nnx.Rngs(0))
    positions = jnp.asarray([[3, 0, 4]])
    y = np.asarray(learned(positions))
    assert (y[0, :2] == np.asarray(learned.table.get_value())[[3, 0]]).all()
    assert np.isnan(y[0, 2]).all()
    waves = np.asarray(sinusoidal(positions, 6))
    steps = np.asarray(positions)[..., None] * 10_000.0 ** (-np.arange(3) / 3)
    assert_close(waves, np.concatenate([np.sin(steps), np.cos(steps)], -1))


def test_a_continued_document_restarts_with_the_row():
    positions = jnp.asarray([[70, 71, 72, 0, 1], [0, 0, 0, 1, 2]])
    segments = jnp.asarray([[1, 1, 1, 2, 2], [0, 0, 1, 1, 1]])
    assert restart(positions, segments).tolist() == [[0, 1, 2, 0, 1], [0, 0, 0, 1, 2]]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward(activation):
    config = DenseConfig(intermediate_size=6, activation=activation, bias=True)
    ffn = config.build(4, std=1.0, rngs=nnx.Rngs(0))
    function, gated = ACTIVATIONS[activation]
    x = normal(2, 3, 4)
    up = x @ ffn.up.kernel.get_value()
    inner = function(x @ ffn.gate.kernel.get_value()) * up if gated else function(up)
    assert_close(ffn(x, x)[0], inner @ ffn.down.kernel.get_value())
