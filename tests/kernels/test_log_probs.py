"""Log-probabilities of targets over a mesh; their values are checked in objectives/test_grpo.py."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlm.kernels.cross_entropy import HeadParams
from jaxlm.kernels.log_probs import log_probs
from jaxlm.mesh import MeshConfig

B, D, V = 4, 4, 256
MESH = MeshConfig(data=2, context=2, stage=2)
RNG = np.random.default_rng(0)


def made(length: int) -> tuple[Any, ...]:
    shapes = (B, length, D), (D, V), (B, length)
    hidden, kernel, factors = (RNG.normal(size=s).astype(np.float32) for s in shapes)
    return hidden, kernel, factors, RNG.integers(0, V, (B, length)).astype(np.int32)


@jax.jit
def both(hidden: Any, kernel: Any, factors: Any, targets: Any) -> Any:
    """((log p, entropy), gradients of a sum of squares)."""

    def loss(x: Any, k: Any) -> Any:
        found = log_probs(x, HeadParams(k), targets, temperature=0.7)
        return (jnp.square(found[0]) * factors).sum(), found

    gradients, found = jax.grad(loss, (0, 1), has_aux=True)(hidden, kernel)
    return found, gradients


@pytest.mark.parametrize("length", [24, 26, 25], ids=["both axes", "context", "whole"])
def test_a_mesh_changes_nothing(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows over data, length over context and stage, as far as they divide it."""
    monkeypatch.setattr("jaxlm.kernels.head_loss.CHUNK", 4)
    arrays = made(length)
    want = both(*arrays)
    with jax.set_mesh(MESH.build()):
        found = both(*arrays)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_each_device_computes_the_logits_of_its_own_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two chunks of 4 of its 8; no token moves, and the gradient of the kernel is summed."""
    monkeypatch.setattr("jaxlm.kernels.head_loss.CHUNK", 4)
    rows = PartitionSpec("data", ("context", "stage"))
    mesh = MESH.build()
    with jax.set_mesh(mesh):
        specs = PartitionSpec(*rows, None), PartitionSpec(), rows, rows
        places = [NamedSharding(mesh, spec) for spec in specs]
        arrays = [jax.device_put(x, place) for x, place in zip(made(32), places, strict=True)]
        text = both.lower(*arrays).compile().as_text() or ""
    shapes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", text)}
    assert max(math.prod(shape) for shape in shapes if V in shape) == (B // 2) * 4 * V
    sent = set(re.findall(r"(all-\w+|collective-permute|reduce-scatter)\(", text))
    assert sent == {"all-reduce"}
