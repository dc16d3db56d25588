"""Six mistakes that no loss would show, each seeded, and each caught as graphs are looked at.

What finds them is the same for all: the slow ones are for a change of what is looked at.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxlm import mesh as meshes
from jaxlm.kernels.contract import contract
from tests.pods.graph import GOLDEN, PODS, graph_of, length_of, load
from tests.pods.test_graphs import differences, network_problems, problems_of
from tests.tpu import needs_libtpu

pytestmark = [pytest.mark.pods, needs_libtpu]


# The smallest pod with fsdp. That nothing is found where nothing is seeded is a test of the graphs.
NAME = "slices"
EXCEPTIONS = PODS[NAME]


def problems() -> list[str]:
    return problems_of(graph_of(load(NAME)), EXCEPTIONS)


@pytest.mark.slow
def test_a_dropped_constraint(monkeypatch):
    """Weights are not gathered before their products: activations move instead."""
    monkeypatch.setattr("jaxlm.nn.dense.gather_weight", lambda w, axes, dtype: w.astype(dtype))
    assert "bytes sent" in "\n".join(problems())


def test_a_lost_donation_and_a_float32_product(monkeypatch):
    """In one step, for each is found by itself: the one in its memory, the other in its FLOPs."""
    jit = jax.jit

    def keeping(function: Any, **options: Any) -> Any:
        return jit(function, **{k: v for k, v in options.items() if k != "donate_argnums"})

    def wide(x: jax.Array, kernel: jax.Array, num_inputs: int) -> jax.Array:
        return contract(x.astype(jnp.float32), kernel, num_inputs).astype(x.dtype)

    cast = lambda w, axes, dtype: meshes.gather_weight(w, axes, jnp.float32)  # noqa: E731
    monkeypatch.setattr("jaxlm.training.learner.jax.jit", keeping)
    monkeypatch.setattr("jaxlm.nn.dense.gather_weight", cast)
    monkeypatch.setattr("jaxlm.nn.embed.gather_weight", cast)
    monkeypatch.setattr("jaxlm.nn.dense.contract", wide)
    found = "\n".join(problems())
    assert "donation: 0.000 GiB" in found and "float32 products" in found


@pytest.mark.slow
def test_a_replicated_parameter(monkeypatch):
    """A rule of the table that no longer splits, against the golden text of the step as it is."""
    monkeypatch.setitem(meshes.RULES, "embed", None)
    graph = graph_of(load(NAME))
    found = "\n".join(differences((GOLDEN / f"{NAME}.txt").read_text(), graph.summary()))
    assert "golden text" in found and "state" in found  # more of it on each device


def test_a_stack_that_is_not_scanned():
    """The lowered program, which is what the graphs' second test looks at."""

    short, long = (
        length_of(load(NAME, f"model.num_layers={layers}", "model.scan_layers=false"))
        for layers in (2, 4)
    )
    assert long > 1.3 * short


@pytest.mark.slow
def test_hidden_states_gathered_once(monkeypatch):
    """In a deep model, where all that fsdp sends is far more.

    What is gathered is within 5% of the sum of its axis, which would say nothing.
    """
    shard = meshes.shard

    def dropped(x: jax.Array, *axes: str | None) -> jax.Array:
        if "head_length" in axes:  # what the final norm is given
            return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec("data"))
        return shard(x, *axes)

    monkeypatch.setattr("jaxlm.models.blocks.shard", dropped)
    graph = graph_of(load(NAME, "model.num_layers=80", "data.seq_len=512"))
    size = 32 * 512 * 2048 * 4 * 15 / 16  # as float32: without optimizations before the cast
    assert size < 0.05 * (sum(piece.bytes for piece in graph.pieces) - size)
    found = "\n".join(network_problems(graph, EXCEPTIONS))
    assert "gathered: all-gather over fsdp of f32[2,512,2048], 120.0 MiB" in found
    assert "all-gather over fsdp: " not in found  # which its sum alone would not have told
