"""The attention that cuDNN is asked for, computed by XLA, against the full score matrix.

There is no GPU here: `tools/compile_for.py` shows that a step with it compiles for one.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.kernels import cudnn
from jaxlm.kernels.attention import attention_kernels
from jaxlm.kernels.registry import target_platform
from jaxlm.mesh import MeshConfig
from tests.kernels.packed_rows import values_and_gradients
from tests.nn.golden_nn import assert_close

B, T, N, K, H = 4, 48, 4, 2, 8
CASES = {
    "is_causal": {},
    "window": {"window": 7, "scale": 0.9},
    "wide window": {"window": 100},
}
CAN = {
    "is_causal": True,
    "prefix": False,
    "same_rows": True,
    "split": False,
    "bias": False,
    "dropout": False,
    "window": False,
    "length": 1024,
    "keys": 1024,
    "softcap": False,
    "dtype": "bfloat16",
    "head_dims": (128, 128),
}


@pytest.fixture(autouse=True)
def described(monkeypatch):
    monkeypatch.setattr(cudnn, "IMPLEMENTATION", "xla")
    monkeypatch.setattr(cudnn, "DTYPES", ("bfloat16", "float16", "float32"))
    monkeypatch.setattr(cudnn, "max_head_dim", lambda: 128)


def run(impl, **options):
    """(output, gradients of queries, keys and values) of rows of one to three documents."""
    segments = np.ones((B, T), np.int32)
    segments[1, 30:] = 2
    segments[1, -5:] = 0
    segments[2, 10:20], segments[2, 20:] = 2, 3
    segments[3] = 0
    positions = np.tile(np.arange(T, dtype=np.int32), (B, 1))
    positions[1, 30:] -= 30
    positions[2, 10:20] -= 10
    positions[2, 20:] -= 20
    return values_and_gradients(impl, segments, positions, (N, K), (H, H), **options)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_full_score_matrix(name):
    jax.tree.map(assert_close, run("cudnn", **CASES[name]), run("reference", **CASES[name]))


def test_each_device_runs_it_on_its_rows_and_heads():
    with jax.set_mesh(MeshConfig(data=2, fsdp=2, tensor=2).build()):
        found = run("cudnn", window=9)
    jax.tree.map(assert_close, found, run("reference", window=9))


def test_gpus_take_it_where_it_can():
    cannot = [
        {"is_causal": False},
        {"same_rows": False},
        {"bias": True},
        {"dropout": True},
        {"softcap": True},
        {"length": 1023},
        {"dtype": "int8"},
        {"head_dims": (136, 136)},
        {"head_dims": (128, 64)},
        {"head_dims": (100, 100)},
        {"prefix": True},
        {"split": True},
    ]
    with target_platform("gpu"):
        taken = attention_kernels.pick(**CAN)
        assert taken is attention_kernels.pick("cudnn", **CAN)
        for change in cannot:
            assert attention_kernels.pick(**CAN | change) is not taken
            with pytest.raises(UserError, match="cudnn"):
                attention_kernels.pick("cudnn", **CAN | change)
    for other in ("tpu", "cpu"):
        with target_platform(other):
            assert attention_kernels.pick(**CAN) is not taken


def test_without_cuda_the_plain_kernel_runs(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(cudnn.importlib.util, "find_spec", lambda name: None)
    with target_platform("gpu"):
        assert attention_kernels.pick(**CAN) is attention_kernels.pick("blocked", **CAN)


def test_elsewhere_it_says_where_it_runs(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(cudnn, "DTYPES", ("float32",))
    with pytest.raises(UserError, match="on GPUs, not on cpu; use auto"):
        run("cudnn")
