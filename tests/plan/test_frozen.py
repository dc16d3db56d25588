"""Plans of runs with an adapter: what is frozen has no gradient, no moments and no update."""

from __future__ import annotations

import jax
import pytest

from jaxlm.mesh import MeshConfig
from jaxlm.plan.closed_form import sender
from jaxlm.plan.closed_form.analytic import analyse
from jaxlm.plan.closed_form.facts import facts_of
from jaxlm.plan.closed_form.setting import setting_of
from jaxlm.plan.compiling import compile_on
from jaxlm.plan.devices import Topology
from jaxlm.plan.memory import batch_parts, state_parts
from jaxlm.plan.shapes import planned
from tests.tiny import load

MESH = MeshConfig(data=2, fsdp=4)
ADAPTER = "adapter={type: lora, rank: 2, targets: [query, ffn/up]}"
TRAINED = 4 * 2 * 2 * (32 + 32 + 32 + 96)  # bytes of A and B of two layers, rank 2


def config_of(*changes: str):
    return planned(load("transformer", "data.seq_len=16", *changes).config.replace(mesh=MESH))


def work_of(*changes: str):
    facts = facts_of(config_of(*changes))
    topology = Topology.read("v5e:2x4")
    return analyse(facts, setting_of(facts, MESH.shape(8), topology), topology)


def test_a_compiled_step_takes_the_state_of_what_is_trained_and_one_copy_of_the_rest():
    compiled = compile_on(config_of(ADAPTER), MESH.build(), {}, platform="cpu")
    parts = state_parts(compiled.learner)
    found = {p.kind: 0.0 for p in parts}
    for part in parts:
        found[part.kind] += part.num_bytes
    arguments = sum(p.num_bytes for p in (*parts, *batch_parts(compiled.batch_spec)))
    leaves = jax.tree.leaves(
        (compiled.learner.abstract_state(), compiled.learner.abstract_frozen())
    )
    assert compiled.stats.argument_size_in_bytes == pytest.approx(arguments, abs=64 * len(leaves))
    assert found["optimizer"] <= 2 * TRAINED + 4  # of two moments
    assert found["parameters"] > 4 * 33_024 / 4
    assert compiled.stats.alias_size_in_bytes <= 3 * TRAINED + 64  # the base is not given back


def test_the_closed_form_agrees_and_has_no_gradients_of_the_base(monkeypatch):
    # A head of few tokens sums gradients of hidden states, which are not of weights.
    monkeypatch.setattr(sender, "MOST_TOKENS", 0)
    several = ("train.batch_size=16", "train.accumulation=2")
    full, lora = work_of(*several), work_of(ADAPTER, *several)
    kinds = lora.memory.by_kind()
    compiled = state_parts(_learner())
    for kind in ("parameters", "optimizer"):
        own = sum(p.num_bytes for p in compiled if p.kind == kind)
        assert kinds[kind] == pytest.approx(own, abs=64)
    assert kinds["gradients"] <= TRAINED < full.memory.by_kind()["gradients"]
    assert lora.load.flops < full.load.flops
    # both micro-batches' gradients, each at most a whole all-reduce
    assert summed(lora) <= 4 * TRAINED < summed(full) / 5


def summed(work) -> float:
    """Bytes of gradients that a device sends."""
    sums = [t for t in work.load.transfers if t.kind in ("reduce-scatter", "all-reduce")]
    return sum(t.wire_bytes for t in sums if "fsdp" in t.axes or "data" in t.axes)


def _learner():
    from jaxlm.training.build import learner_of

    return learner_of(config_of(ADAPTER), MESH.build())
