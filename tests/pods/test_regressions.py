"""Five mistakes that no loss would show, each seeded, and each caught as graphs are looked at."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxlm import mesh as meshes
from jaxlm.kernels.contract import contract
from jaxlm.plan.shapes import batch_spec_of
from jaxlm.run import RunConfig
from jaxlm.train.session import program_of
from tests.pods.graph import graph_of, load
from tests.pods.test_graphs import differences, problems_of
from tests.tpu import needs_libtpu

pytestmark = [pytest.mark.pods, needs_libtpu]


def small(*overrides: str) -> RunConfig:
    """A shipped config in small: fewer layers, on a quarter of its pod."""
    pod = ("mesh.topology=v6e:8x8", "mesh.fsdp=64", "train.batch_size=64", "data.seq_len=2048")
    return load("llama3.1_8b", "model.num_layers=2", *pod, *overrides)


@cache
def right() -> str:
    """The summary of the step as it is."""
    graph = graph_of(small())
    assert problems_of(graph, 0.9) == []
    return graph.summary()


def told() -> str:
    graph = graph_of(small())
    return "\n".join([*problems_of(graph, 0.9), *differences(right(), graph.summary())])


def test_a_dropped_constraint(monkeypatch):
    """Weights are not gathered before their products: activations move instead."""
    right()
    monkeypatch.setattr("jaxlm.nn.dense.gather_weight", lambda w, axes, dtype: w.astype(dtype))
    assert "bytes sent" in told()


def test_a_lost_donation(monkeypatch):
    right()
    jit = jax.jit

    def keeping(function: Any, **options: Any) -> Any:
        return jit(function, **{k: v for k, v in options.items() if k != "donate_argnums"})

    monkeypatch.setattr("jaxlm.train.state.jax.jit", keeping)
    assert "donation: 0.000 GiB" in told()


def test_a_replicated_parameter(monkeypatch):
    """A rule of the table that no longer splits."""
    right()
    monkeypatch.setitem(meshes.RULES, "embed", None)
    found = told()
    assert "golden text" in found and "state" in found  # more of it on each device


def test_a_float32_product(monkeypatch):
    right()

    def wide(x: jax.Array, kernel: jax.Array, num_inputs: int) -> jax.Array:
        return contract(x.astype(jnp.float32), kernel, num_inputs).astype(x.dtype)

    cast = lambda w, axes, dtype: meshes.gather_weight(w, axes, jnp.float32)  # noqa: E731
    monkeypatch.setattr("jaxlm.nn.dense.gather_weight", cast)
    monkeypatch.setattr("jaxlm.nn.dense.contract", wide)
    assert "float32 products" in told()


def test_a_stack_that_is_not_scanned():
    """Of the lowered program, which is what the graphs' second test looks at."""

    def lines(layers: int, scan: bool) -> int:
        config = small(f"model.num_layers={layers}", f"model.scan_layers={str(scan).lower()}")
        config = config.replace(mesh=type(config.mesh)(data=1, num_devices=1))
        config = config.replace(train=config.train.replace(batch_size=1))
        mesh = config.mesh.build()
        with jax.set_mesh(mesh):
            program, spec = program_of(config, mesh), batch_spec_of(config, mesh, signals=False)
            lowered = jax.jit(program.train_step).lower(program.abstract_state(), spec)
        return lowered.as_text().count("\n")

    assert lines(2, True) == lines(4, True)
    assert lines(4, False) > 1.5 * lines(2, False)
