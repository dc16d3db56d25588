"""Sums over devices of which each keeps a part, compiled by the TPUs' own compiler, one by one."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding

import jaxlm.kernels.megablox  # noqa: F401  (registers itself)
from jaxlm.kernels.grouped_matmul import grouped_matmul
from jaxlm.kernels.registry import target_platform
from jaxlm.mesh import (
    MeshConfig,
    gather_part,
    gather_weight,
    on_each_device,
    spec_of,
    sum_split,
)
from jaxlm.plan.compiling import devices_of
from jaxlm.plan.devices import Topology
from jaxlm.plan.hlo.count import count
from tests.pods.sent import MIB
from tests.tpu import needs_libtpu

pytestmark = [pytest.mark.pods, needs_libtpu]

ROWS = ("batch", "length", None)


@cache
def pod() -> Mesh:
    """512 chips, of which fsdp takes 64: parts of 7168 columns are of 112, no whole tiles."""
    return MeshConfig(data=1, fsdp=64, expert=8).build(devices_of(Topology.read("v5p:8x8x8")))


def sent(mesh, run, *arrays):
    """Bytes that a device sends along fsdp, by kind, in a function of arrays [(axes, shape)]."""
    with jax.set_mesh(mesh):
        specs = [
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec_of(axes)))
            for axes, shape, dtype in arrays
        ]
        text = jax.jit(run).lower(*specs).compile({"optimization_level": "9"}).as_text()
    found: dict[str, float] = {}
    for c in count(text, mesh=dict(mesh.shape)).collectives:
        if "fsdp" in c.axes:
            found[c.kind] = found.get(c.kind, 0.0) + c.wire_bytes
    return found


def rows(*shape):
    return (ROWS, shape, jnp.bfloat16)


def by_hand(mesh):
    with jax.set_mesh(mesh):
        return on_each_device(gradient, [ROWS, ROWS], ("embed", None))


def gradient(x, z):
    total = jnp.einsum("BTD,BTV->DV", x, z, preferred_element_type=jnp.float32)
    return sum_split(total, ["batch", "length"], dim=0, by="embed")


def test_a_head_s_gradient_comes_to_each_device_in_part():
    found = sent(pod(), by_hand(pod()), rows(512, 512, 7168), rows(512, 512, 129280))
    whole = 4 * 7168 * 129280 * 63 / 64
    assert found.get("all-reduce", 0.0) < MIB, found
    assert whole <= sum(found.values()) < 1.01 * whole, found


@pytest.mark.slow  # news of the compiler, which no change here brings
@pytest.mark.parametrize("name", ["v6e:8x8", "v5p:4x4x4"])
def test_over_a_whole_slice_libtpu_sums_all_for_all(name):
    """Also where a reduce-scatter is asked for by hand: so shipped meshes have `data` of two.

    When this fails, `jaxlm.plan.closed_form.weights` and the README have news.
    """
    devices = devices_of(Topology.read(name))
    whole = 4 * 4096 * 14336
    for data, kind, share in ((1, "all-reduce", 2 * 63 / 64), (2, "reduce-scatter", 31 / 32)):
        mesh = MeshConfig(data=data, fsdp=64 // data).build(devices)
        found = sent(mesh, by_hand(mesh), rows(64, 1024, 4096), rows(64, 1024, 14336))
        assert found == {kind: whole * share}


def test_a_gradient_whose_last_dim_is_split_comes_in_parts():
    """An output projection's: summed as it is, all of it came to each of 64 devices."""
    mesh = MeshConfig(data=2, fsdp=64).build(devices_of(Topology.read("v5p:4x4x8")))
    axes = ("mlp", "embed")

    def run(x, d_y, kernel):
        product = lambda k: jnp.einsum("BTF,FD->BTD", x, gather_weight(k, axes, jnp.bfloat16))  # noqa: E731
        return jax.vjp(product, kernel)[1](d_y)[0]

    kernel = (axes, (28672, 8192), jnp.float32)
    found = sent(mesh, run, rows(128, 512, 28672), rows(128, 512, 8192), kernel)
    assert found == {"reduce-scatter": 2 * 28672 * 8192 * 63 / 64}


def test_experts_gradients_come_in_parts():
    """Split along the last dim, in whole tiles of columns, as the down projections are."""
    mesh = MeshConfig(data=2, fsdp=32).build(devices_of(Topology.read("v5p:4x4x4")))
    axes = ("experts", "mlp", "embed")

    def of_parts(x, d_y, kernel):
        sizes = jnp.array([256, 256])
        x, d_y = x.reshape(512, -1), d_y.reshape(512, -1)
        product = lambda k: grouped_matmul(x, gather_part(k, axes, x.dtype), sizes)  # noqa: E731
        return jax.vjp(product, kernel)[1](d_y)[0]

    def run(x, d_y, kernel):
        return on_each_device(of_parts, [ROWS, ROWS, axes], axes)(x, d_y, kernel)

    kernel = (axes, (2, 14336, 4096), jnp.float32)
    with target_platform("tpu"):
        found = sent(mesh, run, rows(64, 512, 14336), rows(64, 512, 4096), kernel)
    assert found["reduce-scatter"] == 2 * 2 * 14336 * 4096 * 31 / 32
    assert "all-reduce" not in found
