"""Meshes, logical axes, global arrays and processes, on eight simulated devices."""

from __future__ import annotations

import json
import socket
import textwrap
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlm import mesh as meshes
from jaxlm.core.config import ConfigError, UserError, parse
from jaxlm.mesh import (
    AXES,
    MeshConfig,
    batch_sharding,
    check_batch,
    check_divides,
    columns_of,
    from_columns,
    gather_weight,
    local_rows,
    param_shardings,
    replicated,
    shard,
    spec_of,
    to_global,
    to_global_whole,
)
from jaxlm.plan.hlo.count import count
from tests.programs import run_programs


def message(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------ shapes


@dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device, which is in one of several slices."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU of a test"
    core_on_chip: int = 0

    @property
    def coords(self) -> tuple[int, int, int]:
        """Four chips a slice, two by two."""
        return self.id % 2, self.id % 4 // 2, 0


def sorted_(chips: list[Chip]) -> list[Chip]:
    return sorted(chips, key=lambda chip: chip.id)


def test_only_one_axis_crosses_the_network_between_slices():
    chips = [Chip(i, i // 4) for i in range(8)]
    chips = [chips[i] for i in (5, 0, 2, 7, 4, 1, 3, 6)]  # in any order
    config = MeshConfig(data=4, fsdp=2)
    found = config._over_slices(config.shape(8), 2, chips)
    slices = np.vectorize(lambda chip: chip.slice_index)(found).reshape(4, 2)
    np.testing.assert_array_equal(slices, [[0, 0], [0, 0], [1, 1], [1, 1]])
    config = MeshConfig(data=2, stage=4, dcn="stage")
    found = config._over_slices(config.shape(8), 2, chips)
    slices = np.vectorize(lambda chip: chip.slice_index)(found).reshape(4, 2)
    np.testing.assert_array_equal(slices, [[0, 0], [0, 0], [1, 1], [1, 1]])
    odd = MeshConfig(data=1, fsdp=8)
    assert "mesh.data: 1 parts cannot be divided over 2 slices; make it a multiple of 2" in message(
        lambda: odd.build(chips)
    )
    few = MeshConfig(data=6, num_devices=6)
    assert "6 devices are not as many of each slice" in message(lambda: few.build(sorted_(chips)))


@pytest.mark.parametrize(
    ("config", "devices", "sizes"),
    [
        (MeshConfig(), 8, {"data": 8}),
        (MeshConfig(), 1, {}),
        (MeshConfig(data=2, fsdp=-1), 8, {"data": 2, "fsdp": 4}),
        (MeshConfig(data=1, fsdp=2, tensor=-1), 6, {"fsdp": 2, "tensor": 3}),
        (MeshConfig(data=2, fsdp=2, tensor=2), 8, {"data": 2, "fsdp": 2, "tensor": 2}),
        (MeshConfig(tensor=2, num_devices=4), 8, {"data": 2, "tensor": 2}),
        (MeshConfig(fsdp=8), 8, {"fsdp": 8}),
    ],
)
def test_shape_fills_in_the_rest(config, devices, sizes):
    assert config.shape(devices) == dict.fromkeys(AXES, 1) | sizes


@pytest.mark.parametrize(
    ("config", "devices", "said"),
    [
        (MeshConfig(num_devices=9), 8, "9 asked for but 8 exist; set it to at most 8"),
        (MeshConfig(fsdp=3), 8, "8 devices cannot be split by data -1 x fsdp 3; make the fixed"),
        (MeshConfig(fsdp=16), 8, "product (16) divide 8"),
        (MeshConfig(data=4, tensor=4), 8, "takes 16 devices but 8 exist; use smaller axes, or"),
        (MeshConfig(data=2), 8, "data 2 takes 2 devices but 8 exist; set mesh.num_devices=2 or"),
        (MeshConfig(data=1), 8, "1 device takes 1 devices but 8 exist"),
    ],
)
def test_devices_that_do_not_fit(config, devices, said):
    text = message(lambda: config.shape(devices))
    assert said in text and text.startswith("mesh")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"fsdp": -1}, "data and fsdp are -1; let only one take the remaining devices"),
        ({"data": 1, "tensor": 0}, "tensor: 0 devices make no mesh"),
        ({"data": -2}, "data: -2 is out of range; set it >= -1"),
        ({"stage_repeats": 2}, "stage_repeats: there is one stage; set stage to 2 or more"),
        ({"num_devices": 0}, "num_devices: 0 is out of range"),
    ],
)
def test_configs_that_cannot_be(values, said):
    with pytest.raises(ConfigError) as caught:
        parse(MeshConfig, values)
    assert said in str(caught.value)


def test_build_has_every_axis_in_order():
    mesh = MeshConfig(data=2, tensor=2, fsdp=-1).build()
    assert mesh.axis_names == AXES
    assert dict(mesh.shape) == dict.fromkeys(AXES, 1) | {"data": 2, "fsdp": 2, "tensor": 2}
    assert len(set(mesh.devices.flat)) == 8
    assert MeshConfig(num_devices=2).build().devices.size == 2
    assert MeshConfig().build(jax.devices()[3:4]).devices.flat[0] == jax.devices()[3]


# ------------------------------------------------------------------------------------ logical axes


def test_spec_of_the_table():
    assert spec_of(("embed", "mlp")) == P("fsdp", "tensor")
    assert spec_of(("batch", "length", "act_embed")) == P(
        ("data", "fsdp", "expert"), "context", None
    )
    assert spec_of((None, "norm")) == P(None, None)
    assert spec_of(()) == P()
    assert spec_of(("embed", "mlp"), without=("fsdp",)) == P(None, "tensor")
    assert spec_of(("batch",), without=("fsdp", "expert")) == P("data")


def test_unknown_axis_is_an_error():
    text = message(lambda: spec_of(("embd",)))
    assert text.startswith("logical axis 'embd': not in the rule table; use one of embed, vocab")


def test_every_rule_names_axes_of_the_mesh():
    for rule in meshes.RULES.values():
        assert set((rule,) if isinstance(rule, str) else rule or ()) <= set(AXES)


def test_shard_splits_over_the_devices():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    x = jnp.arange(8 * 4 * 6, dtype=jnp.float32).reshape(8, 4, 6)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: shard(x * 2, "batch", "length", "act_mlp"))(x)
    assert {s.data.shape for s in y.addressable_shards} == {(2, 4, 3)}
    np.testing.assert_array_equal(y, x * 2)


def test_without_a_mesh_nothing_happens():
    x = jnp.ones((3, 5))
    assert shard(x, "batch", "act_mlp") is x
    assert gather_weight(x, ("embed", "mlp"), jnp.bfloat16).dtype == jnp.bfloat16


def test_gather_weight_casts_and_leaves_fsdp_out():
    mesh = MeshConfig(data=1, fsdp=4, tensor=2).build()
    weight = jnp.arange(32, dtype=jnp.float32).reshape(8, 4)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda w: gather_weight(w, ("embed", "mlp"), jnp.bfloat16))(weight)
    assert y.dtype == jnp.bfloat16
    assert {s.data.shape for s in y.addressable_shards} == {(8, 2)}
    np.testing.assert_array_equal(np.asarray(y, np.float32), weight)


@pytest.mark.parametrize("rows", [64, 8])
def test_a_lookup_and_its_gradient_go_by_columns_where_that_is_less(rows):
    """32 tokens on each of eight devices; a table of 8 rows is gathered and summed instead."""
    mesh = MeshConfig(data=2, fsdp=4).build()
    rng = np.random.default_rng(0)
    table, scale = (rng.normal(size=(n, 16)).astype(np.float32) for n in (rows, 16 * 16))
    tokens = rng.integers(0, rows, (16, 16)).astype(np.int32)

    def loss(table, tokens):
        columns = columns_of((*tokens.shape, 16), rows=rows)
        if columns is None:
            table = gather_weight(table, ("vocab", "embed"), jnp.float32)
        x = jnp.take(table, tokens, axis=0)
        x = x if columns is None else from_columns(x, columns)
        return (jnp.square(shard(x, "batch", None, None)) * scale.reshape(16, 16, 16)).sum()

    expected = np.zeros_like(table)
    flat = tokens.reshape(-1)
    np.add.at(expected, flat, 2 * table[flat] * scale)
    with jax.set_mesh(mesh):
        split = [NamedSharding(mesh, P(None, "fsdp")), NamedSharding(mesh, P(("data", "fsdp")))]
        given = [jax.device_put(x, s) for x, s in zip((table, tokens), split, strict=True)]
        compiled = jax.jit(jax.grad(loss), out_shardings=split[0]).lower(*given).compile()
    np.testing.assert_allclose(compiled(*given), expected, rtol=1e-5, atol=1e-5)
    counts = count(compiled.as_text(), mesh={"data": 2, "fsdp": 4})
    by_columns = 2 * 32 * 16 * 4 * 3 / 4  # the rows, and their gradients back
    assert (counts.wire_bytes("all-to-all", "fsdp") == by_columns) == (rows == 64)
    gathered = [c for c in counts.collectives if c.kind == "all-gather"]
    assert any(s.dims[0] == rows for c in gathered for s in c.given) == (rows == 8)
    summed = [c for c in counts.collectives if c.kind == "all-reduce" and c.whole_bytes > 64]
    assert any("fsdp" in c.axes for c in summed) == (rows == 8)


def test_param_shardings_follow_the_axes():
    mesh = MeshConfig(data=1, fsdp=4, tensor=2).build()
    params = {"a": {"kernel": jax.ShapeDtypeStruct((8, 6), jnp.float32)}, "s": jnp.zeros(3)}
    found = param_shardings(params, {"a": {"kernel": ("embed", "mlp")}, "s": ("norm",)}, mesh)
    assert found["a"]["kernel"].spec == P("fsdp", "tensor")
    assert found["a"]["kernel"].shard_shape((8, 6)) == (2, 3)
    assert found["s"].is_fully_replicated


def test_param_that_does_not_divide_is_named_with_a_mesh_that_fits():
    mesh = MeshConfig(data=1, fsdp=1, tensor=8).build()
    params = {"layers": {"ffn": {"kernel": jax.ShapeDtypeStruct((8, 12), jnp.float32)}}}
    axes = {"layers": {"ffn": {"kernel": ("embed", "mlp")}}}
    text = message(lambda: param_shardings(params, axes, mesh))
    assert "parameter layers/ffn/kernel: dim 1 (mlp) of size 12" in text
    assert "8 devices of mesh axis tensor; use a size of 8 or 16, or 4 devices there" in text


def test_check_divides():
    mesh = MeshConfig(data=2, fsdp=4).build()
    check_divides(8, "fsdp", mesh, "x")
    check_divides(7, None, mesh, "x")
    check_divides(16, ("data", "fsdp"), mesh, "x")
    text = message(lambda: check_divides(12, ("data", "fsdp"), mesh, "x"))
    assert text == (
        "x of size 12 cannot be split over 8 devices of mesh axis data+fsdp; "
        "use a size of 8 or 16, or 4 devices there"
    )


# ------------------------------------------------------------------------------------------ batches


def test_check_batch():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    check_batch(4, mesh, "train.batch_size")
    text = message(lambda: check_batch(6, mesh, "train.batch_size"))
    assert text.startswith("train.batch_size of size 6 cannot be split over 4 devices")
    assert text.endswith("use a size of 4 or 8, or 2 devices there")
    text = message(lambda: check_batch(3, mesh, "train.batch_size"))
    assert text.endswith("use a size of 4, or 1 device there")


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(num_devices=1),
        MeshConfig(),
        MeshConfig(data=2, fsdp=-1),
        MeshConfig(data=2, fsdp=2, tensor=2),
        MeshConfig(data=1, tensor=8),
    ],
)
def test_a_global_batch_is_the_same_on_every_mesh(config):
    mesh = config.build()
    rng = np.random.default_rng(0)
    batch = {
        "tokens": rng.integers(0, 99, (16, 6), dtype=np.int32),
        "num_bytes": rng.integers(0, 99, 16, dtype=np.int32),
    }
    assert local_rows(16, mesh) == list(range(16))
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    for arrays in (to_global(batch, mesh), to_global_whole(batch, mesh)):
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, batch[name])
            shard_shape = (16 // parts, *batch[name].shape[1:])
            assert {s.data.shape for s in array.addressable_shards} == {shard_shape}
            assert array.sharding == batch_sharding(mesh, batch[name].ndim)


def test_replicated_holds_all_on_every_device():
    x = jax.device_put(np.arange(4), replicated(MeshConfig().build()))
    assert {s.data.shape for s in x.addressable_shards} == {(4,)} and len(x.devices()) == 8


# ---------------------------------------------------------------------------------------- processes

WORKER = """
import json, sys
import numpy as np
import jax
from jaxlm.core.config import UserError
from jaxlm.mesh import MeshConfig, local_rows, to_global
from jaxlm.distributed.processes import init_processes
init_processes(sys.argv[1], 2, int(sys.argv[2]))
batch = np.random.default_rng(0).integers(0, 99, (8, 3), dtype=np.int32)
found = {"processes": jax.process_count(), "devices": jax.device_count()}
for name, config in {
    "data": MeshConfig(), "mixed": MeshConfig(fsdp=2), "tensor": MeshConfig(data=1, tensor=4),
    "permuted": MeshConfig(),
}.items():
    order = (0, 2, 3, 1) if name == "permuted" else range(4)  # as a pod's network may have it
    mesh = config.build([jax.devices()[i] for i in order])
    rows = local_rows(8, mesh)
    array = to_global({"x": batch[rows]}, mesh)["x"]
    assert array.shape == (8, 3), array.shape
    for part in array.addressable_shards:
        np.testing.assert_array_equal(part.data, batch[part.index])
    total = jax.jit(lambda x: (x * np.arange(24).reshape(8, 3)).sum())(array)
    found[name] = [rows, int(total)]
try:
    MeshConfig(num_devices=2).build()
except UserError as error:
    found["error"] = str(error)
print(json.dumps(found))
"""


def test_two_processes_of_two_devices_hold_one_batch():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    words = [[address, str(i)] for i in range(2)]
    codes, outputs = run_programs(textwrap.dedent(WORKER), words, [environment] * 2)
    assert codes == [0, 0], outputs
    batch = np.random.default_rng(0).integers(0, 99, (8, 3), dtype=np.int32)
    total = int((batch * np.arange(24).reshape(8, 3)).sum())
    for i, out in enumerate(outputs):
        found = json.loads(out.splitlines()[-1])
        assert (found["processes"], found["devices"]) == (2, 4)
        assert found["data"] == found["mixed"] == [[*range(4 * i, 4 * i + 4)], total]
        assert found["tensor"] == [[*range(8)], total]
        # device 1 is the last of the mesh, so process 0 holds its first and its last rows
        assert found["permuted"] == [[[0, 1, 6, 7], [2, 3, 4, 5]][i], total]
        assert "2 devices leave process 1 none" in found["error"]
