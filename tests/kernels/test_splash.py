"""The TPU's attention kernel, its program run on a CPU, against the full score matrix."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

import jaxlm.kernels.flash  # noqa: F401  (registers itself)
from jaxlm.kernels import splash
from jaxlm.kernels.attention import attention, attention_kernels
from jaxlm.kernels.context import context_kernels
from jaxlm.kernels.registry import target_platform
from jaxlm.mesh import MeshConfig
from jaxlm.nn.position import Rows
from tests.kernels.packed_rows import values_and_gradients
from tests.nn.golden_nn import assert_close

B, T, N, K, H, V = 4, 256, 4, 2, 16, 8
CASES = {
    "is_causal": {},
    "softcap": {"softcap": 2.0, "scale": 0.9, "window": 40},
    "both ways": {"is_causal": False},
    "both ways, near": {"is_causal": False, "window": 40, "softcap": 2.0},
    "prefix": {"prefix": True},
}
MESH = MeshConfig(data=2, context=2, tensor=2)
CAN = {
    "is_causal": True,
    "same_rows": True,
    "bias": False,
    "dropout": False,
    "length": 1024,
    "keys": 1024,
    "prefix": False,
    "window": False,
    "split": False,
}


@pytest.fixture(autouse=True)
def small_and_slow(monkeypatch):
    monkeypatch.setattr(splash, "INTERPRET", True)
    monkeypatch.setattr(splash, "BLOCK", 128)
    monkeypatch.setattr(splash, "WIDE", 256)


def places(length=T):
    """(segment ids, positions) of rows of one and of two documents, of which one is padded."""
    segments = np.ones((B, length), np.int32)
    segments[1, 150:] = 2
    segments[1, -20:] = 0
    positions = np.tile(np.arange(length, dtype=np.int32), (B, 1))
    positions[1, 150:] -= 150
    return segments, positions


def run(impl, *, prefix=False, **options):
    """(output, gradients of queries, keys and values)."""
    segments, positions = places()
    if prefix:  # of the first document longer than a block
        options["k_prefix"] = positions < np.where(segments == 1, 140, 30)
    return values_and_gradients(impl, segments, positions, (N, K), (H, V), **options)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_full_score_matrix(name):
    jax.tree.map(assert_close, run("splash", **CASES[name]), run("reference", **CASES[name]))


def test_each_device_runs_it_on_its_rows_and_heads():
    with jax.set_mesh(MeshConfig(data=2, fsdp=2, tensor=2).build()):
        found = run("splash")
    jax.tree.map(assert_close, found, run("reference"))


# ------------------------------------------------------------------------------------ two texts


def of_two_texts(impl):
    """The same where the keys are of another text, which a document of the queries may lack."""
    q_ids, k_ids = places()[0], np.ones((B, 2 * T), np.int32)
    k_ids[0, 300:], k_ids[1, 100:], k_ids[2], k_ids[3, 20:] = 0, 2, 7, 3
    rng = np.random.default_rng(0)
    q, k, v, cotangent = (
        rng.normal(size=(B, *shape)).astype(np.float32)
        for shape in ((T, N, H), (2 * T, K, H), (2 * T, K, V), (T, N, V))
    )
    ids = {"q_segment_ids": q_ids, "k_segment_ids": k_ids}
    nowhere = {"q_positions": np.zeros_like(q_ids), "k_positions": np.zeros_like(k_ids)}

    def both(q, k, v):
        call = lambda *x: attention(*x, **ids, **nowhere, is_causal=False, impl=impl)  # noqa: E731
        out, pull = jax.vjp(call, q, k, v)
        return out, pull(cotangent)

    return jax.device_get(jax.jit(both)(q, k, v))


def test_keys_may_be_of_another_text():
    with jax.set_mesh(MESH.build()):
        found = of_two_texts("splash")
    want = of_two_texts("reference")
    jax.tree.map(assert_close, found, want)
    assert not found[0][2].any() and found[0][3].any()


# --------------------------------------------------------------------------------- a split length


SPLIT = {
    "is_causal": {},
    "short window": {"window": 100},  # shorter than a part: chunks stay
    "long window": {"window": 300, "softcap": 2.0},
    "both ways, near": {"is_causal": False, "window": 100},
    "prefix": {"prefix": True},
}


def of_parts(name):
    """(by the kernel on each device's part, by the full score matrix): output and gradients."""
    case, length = dict(SPLIT[name]), 256 * MESH.context
    segments, positions = (x[:2] for x in places(length))
    prefix = positions < 140 if case.pop("prefix", False) else None
    how = {"is_causal": True, "window": None, "softcap": None, "scale": None} | case
    rows, rng = Rows(positions, segments, prefix), np.random.default_rng(0)
    *inputs, cotangent = (
        rng.normal(size=(2, length, *shape)).astype(np.float32)
        for shape in ((N, H), (K, H), (K, V), (N, V))
    )
    meet = context_kernels.pick("auto", bias=False, dropout=False, impl="splash")

    @partial(jax.jit, static_argnums=0)
    def both(impl, inputs, cotangent):  # arguments: XLA would compute with constants as it compiles
        call = lambda q, k, v: meet(q, k, v, rows, **how, bias=None, impl=impl)  # noqa: E731
        out, pull = jax.vjp(call, *inputs)
        return out, pull(cotangent)

    with jax.set_mesh(MESH.build()):
        found = jax.device_get(both("splash", inputs, cotangent))
    return found, jax.device_get(both("reference", inputs, cotangent))


@pytest.mark.parametrize(
    "name",
    [
        "is_causal",
        "long window",
        "prefix",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("short window", "both ways, near")
        ),
    ],
)
def test_each_device_runs_it_on_its_part_of_a_row(name):
    found, want = of_parts(name)
    jax.tree.map(assert_close, found, want)


@pytest.mark.parametrize("prefix", [False, True])
def test_every_device_has_as_many_blocks(prefix):
    parts = 8
    mask = splash.Mask(parts * 256, parts * 256, True, None, prefix, parts, True)
    kernel = splash._kernel(mask, None, H)
    for info, n in ((kernel.fwd_mask_info, 2 * parts), (kernel.dkv_mask_info, parts)):
        blocks = [(x > 0).sum() for x in np.split(np.asarray(info.block_mask), parts, axis=1)]
        assert blocks == [n + 1 + 2 * n * prefix] * parts


@pytest.mark.parametrize(
    ("keys", "head_dim", "columns"),
    [
        (8192, 128, 2048),
        (32768, 64, 2048),
        (4096, 128, 1024),
        (1024, 128, 512),
        (8192, 192, 1024),
        (8192, 256, 1024),
        (1536, 128, 512),
        (8192, 576, 256),
    ],
)
def test_blocks_of_the_backward_pass_are_as_wide_as_fits(monkeypatch, keys, head_dim, columns):
    monkeypatch.setattr(splash, "BLOCK", 512)
    monkeypatch.setattr(splash, "WIDE", 2048)
    assert splash.wide_columns(keys, head_dim) == columns


# ---------------------------------------------------------------------------------- what is taken


def test_tpus_take_it_where_it_can():
    other, split = {"same_rows": False, "is_causal": False}, {"split": True, "length": 256}
    can = [
        {},
        {"is_causal": False},
        {"window": True},
        {"is_causal": False, "window": True},
        {"prefix": True},
        other,
        other | {"length": 128, "keys": 256},
        split,
        split | {"prefix": True},
        split | {"is_causal": False, "length": 128},
    ]
    cannot = [
        {"same_rows": False},
        {"bias": True},
        {"dropout": True},
        {"length": 1000},
        {"keys": 1000},
        {"prefix": True, "window": True},
        other | {"window": True},
        other | {"length": 1},
        other | {"prefix": True},
        split | {"length": 384},
    ]
    with target_platform("tpu"):
        taken = attention_kernels.pick("splash", **CAN)
        for change in can:
            assert attention_kernels.pick(**CAN | change) is taken, change
        for change in cannot:
            assert attention_kernels.pick(**CAN | change) is not taken, change
    with target_platform("cpu"):
        assert attention_kernels.pick(**CAN) is attention_kernels.pick("flash", **CAN)


@pytest.mark.parametrize("change", [{"prefix": True}, {"split": True}, {"is_causal": False}])
def test_blocks_of_queries_are_for_causal_rows_that_a_device_has_whole(change):
    supports = attention_kernels.implementations["blocked"].supports
    assert supports(**CAN) and not supports(**CAN | change)
