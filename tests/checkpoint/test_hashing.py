"""The parameter hash: one value on every mesh, another for any change."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.mesh import MeshConfig


def make_params() -> dict:
    draw = np.random.default_rng(0).normal
    return {
        "layers": {"kernel": draw(size=(4, 16, 8)).astype(np.float32)},
        "embed": {"table": draw(size=(32, 16)).astype(np.float32)},
        "scale": np.float32(2.5).reshape(()),
    }


def test_hash_is_sha256_of_names_dtypes_shapes_and_bytes() -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    b = np.array([1, 2], np.int32)
    oracle = hashlib.sha256(
        b'["a/b","int32",[2]]\n' + b.tobytes() + b'["w","float32",[2,3]]\n' + w.tobytes()
    )
    assert param_sha256({"w": w, "a": {"b": b}}) == oracle.hexdigest()


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)])
def test_hash_is_the_same_on_every_mesh(sizes: tuple[int, int, int]) -> None:
    params = make_params()
    data, fsdp, tensor = sizes
    mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor).build()
    specs = {3: PartitionSpec(None, "fsdp", "tensor"), 2: PartitionSpec("tensor", "fsdp")}
    placed = jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(mesh, specs.get(x.ndim, PartitionSpec()))), params
    )
    assert param_sha256(placed) == param_sha256(params)


def test_order_of_keys_and_memory_layout_do_not_count() -> None:
    params = make_params()
    turned = dict(reversed(params.items()))
    turned["embed"] = {"table": np.asfortranarray(params["embed"]["table"])}
    turned["scale"] = params["scale"].astype(">f4")
    assert param_sha256(turned) == param_sha256(params)


def test_any_change_changes_the_hash() -> None:
    params = make_params()
    table = params["embed"]["table"]
    flipped = table.copy()
    flipped.view(np.uint8)[3, 5] ^= 1
    variants = [
        {**params, "embed": {"table": flipped}},
        {**params, "embed": {"tables": table}},
        {**params, "embed": {"table": table.reshape(16, 32)}},
        {**params, "embed": {"table": table.view(np.int32)}},
        {k: v for k, v in params.items() if k != "scale"},
    ]
    assert len({param_sha256(p) for p in [params, *variants]}) == len(variants) + 1


def test_bfloat16_is_hashed_by_its_bytes() -> None:
    x = jnp.arange(8, dtype=jnp.bfloat16)
    oracle = hashlib.sha256(b'["x","bfloat16",[8]]\n' + np.asarray(x).tobytes()).hexdigest()
    assert param_sha256({"x": x}) == oracle
