"""Sums over devices of which each keeps a part, compiled by the TPUs' own compiler, one by one."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding

from jaxlm.mesh import MeshConfig, on_each_device, spec_of, sum_split
from jaxlm.plan.compiling import devices_of
from jaxlm.plan.devices import Topology
from jaxlm.plan.hlo import count
from tests.pods.sent import MIB
from tests.tpu import needs_libtpu

pytestmark = [pytest.mark.pods, needs_libtpu]

ROWS = ("batch", "length", None)


@cache
def pod() -> Mesh:
    """512 chips, of which fsdp takes 64: parts of 7168 columns are of 112, no whole tiles."""
    return MeshConfig(data=1, fsdp=64, expert=8).build(devices_of(Topology.read("v5p:8x8x8")))


def sent(mesh, function, outputs, *shapes):
    """Bytes that a device sends along fsdp, by kind, in a function of its rows."""
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, spec_of(ROWS))
        arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=rows) for shape in shapes]
        run = on_each_device(function, [ROWS] * len(shapes), outputs)
        text = jax.jit(run).lower(*arrays).compile({"optimization_level": "9"}).as_text()
    found: dict[str, float] = {}
    for c in count(text, mesh=dict(mesh.shape)).collectives:
        if "fsdp" in c.axes:
            found[c.kind] = found.get(c.kind, 0.0) + c.wire_bytes
    return found


def gradient(x, z):
    total = jnp.einsum("BTD,BTV->DV", x, z, preferred_element_type=jnp.float32)
    return sum_split(total, ["batch", "length"], dim=0, by="embed")


def test_a_head_s_gradient_comes_to_each_device_in_part():
    found = sent(pod(), gradient, ("embed", None), (512, 512, 7168), (512, 512, 129280))
    whole = 4 * 7168 * 129280 * 63 / 64
    assert found.get("all-reduce", 0.0) < MIB, found
    assert whole <= sum(found.values()) < 1.01 * whole, found


@pytest.mark.parametrize("name", ["v6e:8x8", "v5p:4x4x4"])
def test_over_a_whole_slice_libtpu_sums_all_for_all(name):
    """Also where a reduce-scatter is asked for by hand: nothing the engine says would send less.

    When this fails, `sent.BEYOND` has an exception too many.
    """
    mesh = MeshConfig(data=1, fsdp=64).build(devices_of(Topology.read(name)))
    found = sent(mesh, gradient, ("embed", None), (64, 1024, 4096), (64, 1024, 14336))
    assert found == {"all-reduce": 2 * 4 * 4096 * 14336 * 63 / 64}
