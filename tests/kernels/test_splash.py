"""The TPU's attention kernel, its program run on a CPU, against all scores at once."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxlm.kernels import splash
from jaxlm.kernels.attention import attention_kernels
from jaxlm.kernels.registry import target_platform
from jaxlm.mesh import MeshConfig
from tests.golden_nn import assert_close
from tests.kernels.packed_rows import values_and_gradients

B, T, N, K, H, V = 4, 256, 4, 2, 16, 8
CASES = {
    "causal": {},
    "window": {"window": 40},
    "softcap": {"softcap": 2.0, "scale": 0.9, "window": 128},
}


@pytest.fixture(autouse=True)
def small_and_slow(monkeypatch):
    monkeypatch.setattr(splash, "INTERPRET", True)
    monkeypatch.setattr(splash, "BLOCK", 128)


def run(impl, **options):
    """(output, gradients of queries, keys and values) of rows of one and of two documents."""
    segments = np.ones((B, T), np.int32)
    segments[1, 150:] = 2
    segments[1, -20:] = 0
    positions = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    positions[1, 150:] -= 150
    return values_and_gradients(impl, segments, positions, (N, K), (H, V), **options)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_all_scores_at_once(name):
    jax.tree.map(assert_close, run("splash", **CASES[name]), run("reference", **CASES[name]))


def test_each_device_runs_it_on_its_rows_and_heads():
    with jax.set_mesh(MeshConfig(data=2, fsdp=2, tensor=2).build()):
        found = run("splash")
    jax.tree.map(assert_close, found, run("reference"))


def test_tpus_take_it_where_it_can():
    can = {"causal": True, "same_rows": True, "bias": False, "dropout": False, "length": 1024}
    cannot = [{"causal": False}, {"same_rows": False}, {"bias": True}, {"dropout": True}]
    with target_platform("tpu"):
        taken = attention_kernels.pick(**can)
        assert taken is attention_kernels.pick("splash", **can)
        for change in [*cannot, {"length": 1000}]:
            assert attention_kernels.pick(**can | change) is not taken
    assert attention_kernels.pick(**can) is attention_kernels.pick("blocked", **can)
