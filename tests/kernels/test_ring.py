"""Ring attention on eight devices against all scores on one: values, gradients, balance."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxlm.core.config import UserError
from jaxlm.kernels.attention import attention
from jaxlm.kernels.context import context_kernels
from jaxlm.kernels.ring import zigzag
from jaxlm.mesh import MeshConfig, on_each_device
from jaxlm.nn.position import Rows
from tests.nn.golden_nn import assert_close

B, T, N, K, H, V = 2, 32, 4, 2, 8, 6
MESHES = {
    "context 8": MeshConfig(data=1, context=8),
    "mixed": MeshConfig(data=2, context=2, tensor=2),
}
CASES = {
    "is_causal": {},
    "window": {"window": 5, "softcap": 2.0, "scale": 0.9},
    "both ways, near": {"is_causal": False, "window": 4},
    "prefix": {"prefix": True},
    "odd parts": {"length": 24},  # three tokens a device: no chunks to swap
}


def rows_of(length: int, prefix: bool) -> Rows:
    """A whole document, and a row of two and padding."""
    segments = np.ones((B, length), np.int32)
    segments[1, 11:] = 2
    segments[1, -4:] = 0
    positions = np.tile(np.arange(length, dtype=np.int32), (B, 1))
    positions[1, 11:] -= 11
    return Rows(positions, segments, positions < 7 if prefix else None)


def both(name: str, mesh: str):
    """(ring, one device): each a function of q, k, v that gives (output, gradients)."""
    case = dict(CASES[name])
    length, prefix = case.pop("length", T), case.pop("prefix", False)
    how = {"is_causal": True, "window": None, "softcap": None, "scale": None} | case
    rows, rng = rows_of(length, prefix), np.random.default_rng(0)
    arrays = [
        rng.normal(size=(B, length, heads, size)).astype(np.float32)
        for heads, size in ((N, H), (K, H), (K, V), (N, V))
    ]
    places = {
        **{f"{side}_positions": rows.positions for side in "qk"},
        **{f"{side}_segment_ids": rows.segment_ids for side in "qk"},
    }
    whole = lambda q, k, v: attention(  # noqa: E731
        q, k, v, **places, k_prefix=rows.prefix, **how, impl="reference"
    )
    pick = context_kernels.pick("ring", bias=False, dropout=False, impl="auto")
    ring = lambda q, k, v: pick(q, k, v, rows, **how, bias=None)  # noqa: E731
    *inputs, cotangent = arrays

    def run(function):
        @jax.jit
        def both(inputs, cotangent):  # arguments: XLA would compute with constants as it compiles
            out, pull = jax.vjp(function, *inputs)
            return out, pull(cotangent)

        return jax.device_get(both(inputs, cotangent))

    with jax.set_mesh(MESHES[mesh].build()):
        found = run(ring)
    return found, run(whole)


@pytest.mark.parametrize(
    ("name", "mesh"), [*((name, "context 8") for name in CASES), ("is_causal", "mixed")]
)
def test_values_and_gradients_are_those_of_the_full_score_matrix(name, mesh):
    found, want = both(name, mesh)
    jax.tree.map(assert_close, found, want)


def swapped(x: jax.Array, back: bool) -> jax.Array:
    places = ("batch", "length")
    return on_each_device(partial(zigzag, axis="context", back=back), [places], places)(x)


def test_every_device_has_an_early_and_a_late_chunk():
    """So it has as many pairs of a query and a key that it sees as the others have."""
    devices, length = 8, 64
    with jax.set_mesh(MESHES["context 8"].build()):
        order = jax.jit(partial(swapped, back=False))(jnp.arange(length)[None])
        again = jax.jit(partial(swapped, back=True))(order)
    np.testing.assert_array_equal(again[0], np.arange(length))
    chunks = np.asarray(order).reshape(devices, 2, -1) // (length // (2 * devices))
    want = [[[i] * 4, [2 * devices - 1 - i] * 4] for i in range(devices)]
    np.testing.assert_array_equal(chunks, want)
    pairs = lambda places: (places.reshape(devices, -1) + 1).sum(1)  # noqa: E731
    assert len(set(pairs(np.asarray(order)))) == 1
    assert pairs(np.arange(length))[-1] > 10 * pairs(np.arange(length))[0]


def test_no_device_has_the_keys_of_all():
    """What is sent is a part at a time: nowhere is there an array of the whole length."""
    mesh = MESHES["context 8"].build()
    rows = rows_of(T, False)
    pick = context_kernels.pick("ring", bias=False, dropout=False, impl="auto")
    how = {"is_causal": True, "window": None, "softcap": None, "scale": None, "bias": None}

    def loss(q, k, v):
        return pick(q, k, v, Rows(*map(jnp.asarray, rows[:2])), **how).sum()

    with jax.set_mesh(mesh):
        split = jax.NamedSharding(mesh, PartitionSpec(None, "context"))
        shapes = [
            jax.ShapeDtypeStruct((B, T, *rest), jnp.float32, sharding=split)
            for rest in ((N, H), (K, H), (K, V))
        ]
        step = jax.jit(jax.grad(loss, (0, 1, 2)), out_shardings=(split,) * 3)
        text = step.lower(*shapes).compile().as_text()
    assert "collective-permute" in text and "all-gather" not in text
    assert f"f32[{B},{T}," not in text


def test_what_a_ring_cannot_do_is_an_error():
    with pytest.raises(UserError, match="context implementation 'ring': cannot do bias=True"):
        context_kernels.pick("ring", bias=True, dropout=False, impl="auto")
