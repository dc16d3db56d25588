"""Log-probabilities of targets over a mesh; their values are checked in objectives/test_grpo.py."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.kernels.cross_entropy import HeadParams
from jaxlm.kernels.log_probs import log_probs
from jaxlm.mesh import MeshConfig

B, D, V = 4, 8, 256
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


def test_each_device_computes_the_logits_of_its_own_tokens() -> None:
    with jax.set_mesh(MESH.build()):
        text = both.lower(*made(32)).compile().as_text()  # a length that is not traced above
    shapes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", text)}
    assert max(map(math.prod, shapes)) == (B // 2) * (32 // 4) * V
