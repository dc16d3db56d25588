"""Latent attention against a slow loop in numpy, and its cache against one pass over the whole."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm.core.tree import flatten
from jaxlm.mesh import MeshConfig, batch_sharding, param_shardings
from jaxlm.nn.latent import LatentConfig
from jaxlm.nn.norm import RMSNormConfig
from jaxlm.nn.params import split
from jaxlm.nn.position import RotaryConfig, Rows
from tests import tiny

DIM = 12
SMALL = LatentConfig(num_heads=4, kv_rank=6, nope_dim=4, rope_dim=2, v_dim=5)
CONFIGS = {
    "plain": SMALL,
    "low queries": SMALL.replace(q_rank=7, scale=0.7, norm_eps=1e-2),
    "window": SMALL.replace(softcap=2.0, rope_dim=4),
    "wide latent": SMALL.replace(kv_rank=40),
    "every token": SMALL.replace(is_causal=False),
}
SEGMENTS = np.array([[1] * 5 + [2] * 6 + [0] * 2, [1] * 13], np.int32)
POSITIONS = np.array([[*range(5), *range(6), 0, 0], [*range(13)]], np.int32)
ROTARY = RotaryConfig(theta=50.0, interleaved=True)
NORM = RMSNormConfig(eps=1e-5)


def window_of(name):
    return 3 if name == "window" else None


def module(name):
    return module_of(CONFIGS[name])


@functools.cache
def module_of(config):
    """(graphdef, params off their fresh values, axes)"""
    make = functools.partial(config.build, DIM, norm=NORM, std=0.5, rotary_interleaved=True)
    graphdef, shapes, axes = split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    return graphdef, tiny.near_fresh(shapes, std=0.5), axes


def inputs(seed=0):
    return np.random.default_rng(seed).normal(size=(*SEGMENTS.shape, DIM)).astype(np.float32)


@functools.cache
def call(name):
    graphdef = module(name)[0]

    def run(params, x, rows, cache=None, keys=None, start=0):
        rotary = ROTARY.angles(rows, CONFIGS[name].rotary_size(DIM))
        how = {"rotary": rotary, "window": window_of(name)}
        cached = {} if cache is None else {"cache": cache, "keys": keys, "start": start}
        return nnx.merge(graphdef, params)(x, rows=rows, **how, **cached)

    return jax.jit(run)


def by_loop(name, params, x):
    """Head by head and pair by pair, in float64."""
    c = CONFIGS[name]
    p = {path: np.asarray(v, np.float64) for path, v in flatten(params).items()}
    x, eps = x.astype(np.float64), c.norm_eps or NORM.eps

    def norm(v, scale):
        return v / np.sqrt(np.mean(v**2) + eps) * scale

    def turned(v, position):
        pairs = v[0::2] + 1j * v[1::2]
        rates = 50.0 ** (-2 * np.arange(len(pairs)) / len(v))
        pairs = pairs * np.exp(1j * position * rates)
        return np.stack([pairs.real, pairs.imag], -1).reshape(-1)

    y = np.zeros(x.shape)
    for b, n in itertools.product(range(len(x)), range(c.num_heads)):
        queries, keys, values = [], [], []
        for t, token in enumerate(x[b]):
            position = POSITIONS[b, t]
            low = token
            if c.q_rank:
                low = norm(token @ p["query_down/kernel"], p["query_norm/scale"])
            q = low @ p["query/kernel"][:, n]
            queries.append([*q[: c.nope_dim], *turned(q[c.nope_dim :], position)])
            latent = norm(token @ p["down/kernel"], p["norm/scale"])
            kv = latent @ p["up/kernel"][:, n]
            rope = turned(token @ p["rope_key/kernel"], position)
            keys.append([*kv[: c.nope_dim], *rope])
            values.append(kv[c.nope_dim :])
        for t in range(x.shape[1]):
            near = window_of(name) or 1000
            seen = [
                s
                for s in range(x.shape[1])
                if SEGMENTS[b, s] == SEGMENTS[b, t] > 0
                and (s <= t or not c.is_causal)
                and abs(s - t) < near
            ]
            if not seen:
                continue
            scale = c.scale or (c.nope_dim + c.rope_dim) ** -0.5
            scores = scale * np.array([np.dot(queries[t], keys[s]) for s in seen])
            if c.softcap:
                scores = c.softcap * np.tanh(scores / c.softcap)
            weights = np.exp(scores) / np.exp(scores).sum()
            out = sum(w * values[s] for w, s in zip(weights, seen, strict=True))
            y[b, t] += out @ p["out/kernel"][n]
    return y


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_a_loop(name):
    params, x = module(name)[1], inputs()
    got, cache = call(name)(params, x, Rows(POSITIONS, SEGMENTS))
    want = by_loop(name, params, x)
    assert cache is None
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("plain", (9,)),
        ("window", (2, 1, 6)),
        pytest.param("low queries", (6, 3), marks=pytest.mark.slow),
        pytest.param("wide latent", (2, 1, 1, 4, 1), marks=pytest.mark.slow),
    ],
)
def test_the_cache_equals_the_whole(name, sizes):
    """In parts of many lengths, so that both forms of the product are met."""
    params, x = module(name)[1], inputs()[:, :9]
    config = CONFIGS[name]
    ones, places = np.ones((2, 9), np.int32), np.tile(np.arange(9, dtype=np.int32), (2, 1))
    want, _ = call(name)(params, x, Rows(places, ones))
    cache = config.init_cache(DIM, 2, 11, jnp.float32)
    assert {k: v.shape for k, v in cache.items()} == {
        "latent": (2, 11, config.kv_rank),
        "rope": (2, 11, config.rope_dim),
    }
    start, parts = 0, []
    for size in sizes:
        stop = start + size
        written = np.zeros((2, 11), np.int32)
        written[:, :stop] = 1
        keys = Rows(np.tile(np.arange(11, dtype=np.int32), (2, 1)), written)
        rows = Rows(places[:, start:stop], ones[:, start:stop])
        y, cache = call(name)(params, x[:, start:stop], rows, cache, keys, start)
        parts.append(y)
        start = stop
    bound = 1e-5 * np.abs(want).max()
    np.testing.assert_allclose(np.concatenate(parts, 1), want[:, :start], rtol=0, atol=bound)


def test_both_forms_are_met():
    """Few queries look at the compressed vectors as they are, many expand them first."""
    config = CONFIGS["wide latent"]

    def shapes(length):
        rows = Rows(*(jnp.zeros((1, length), jnp.int32) for _ in range(2)))
        keys = Rows(*(jnp.zeros((1, 64), jnp.int32) for _ in range(2)))
        cache = config.init_cache(DIM, 1, 64, jnp.float32)
        x = jnp.zeros((1, length, DIM))
        args = (module("wide latent")[1], x, rows, cache, keys, 0)
        return call("wide latent").lower(*args).as_text()

    expanded = "1x64x4x9x"  # [B, S, N, nope_dim + v_dim]
    assert expanded not in shapes(1)
    assert expanded in shapes(20)


@pytest.mark.parametrize("changed", [1, 2])
def test_packed_documents_do_not_see_each_other(changed):
    params, x, rows = module("plain")[1], inputs(), Rows(POSITIONS, SEGMENTS)
    inside = changed == SEGMENTS
    before = call("plain")(params, x, rows)[0]
    after = call("plain")(params, np.where(inside[..., None], inputs(1), x), rows)[0]
    others = ~inside & (SEGMENTS > 0)
    assert (before[others] == after[others]).all()
    assert (before[inside] != after[inside]).any()


def test_cross_attention_sees_its_documents_source():
    """Without positions, of sources of 4, of 2 and of 1 tokens; by the loop's own numbers."""
    graphdef, params, _ = module("plain")
    x, source = inputs()[:, :3], inputs(2)[:, :4]
    segments = np.array([[1, 1, 1, 1], [1, 1, 2, 0]], np.int32)
    own_ids = np.array([[1, 1, 1], [1, 2, 2]], np.int32)
    rows = Rows(POSITIONS[:, :3], own_ids)

    @jax.jit
    def cross(params, x, source):
        own = nnx.merge(graphdef, params)
        return own.cross(x, own.project_source(source), rows=rows, source_segment_ids=segments)

    found = cross(params, x, source)
    p = {path: np.asarray(v, np.float64) for path, v in flatten(params).items()}
    latent = source @ p["down/kernel"]
    latent = latent / np.sqrt((latent**2).mean(-1, keepdims=True) + NORM.eps) * p["norm/scale"]
    kv = np.einsum("BSR,RNH->BSNH", latent, p["up/kernel"])
    rope = np.tile((source @ p["rope_key/kernel"])[:, :, None], (1, 1, 4, 1))
    keys = np.concatenate([kv[..., :4], rope], -1)
    scores = np.einsum("BTD,DNH,BSNH->BNTS", x, p["query/kernel"], keys) * 6**-0.5
    weights = np.exp(scores) * (own_ids[:, :, None] == segments[:, None])[:, None]
    weights = weights / weights.sum(-1, keepdims=True)
    want = np.einsum("BNTS,BSNH,NHD->BTD", weights, kv[..., 4:], p["out/kernel"])
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_mesh_changes_nothing():
    config = CONFIGS["low queries"].replace(q_rank=8)
    graphdef, params, axes = module_of(config)

    def loss(params, x, positions, segments):
        rows = Rows(positions, segments)
        rotary = ROTARY.angles(rows, config.rope_dim)
        return (nnx.merge(graphdef, params)(x, rows=rows, rotary=rotary)[0] ** 2).sum()

    gradient = jax.jit(jax.value_and_grad(loss))
    want = gradient(params, inputs(), POSITIONS, SEGMENTS)
    mesh = MeshConfig(data=1, fsdp=2, tensor=2, num_devices=4).build()
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, param_shardings(params, axes, mesh))
        rows = (jax.device_put(a, batch_sharding(mesh, 2)) for a in (POSITIONS, SEGMENTS))
        got = gradient(placed, jax.device_put(inputs(), batch_sharding(mesh, 3)), *rows)
    kernel = placed["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_flops_of_scores():
    assert SMALL.score_flops(DIM) == 2 * 4 * (4 + 2 + 5)
