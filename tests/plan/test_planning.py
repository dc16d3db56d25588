"""Plans, searches and the verb `jaxlm plan`, without a compiler for accelerators."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jaxlm.cli import main
from jaxlm.core.config import UserError, to_yaml
from jaxlm.kernels import cudnn
from jaxlm.plan import Topology, compiling, plan_run, planning, render, search_plans
from jaxlm.plan.advice import neighbours, proposals
from jaxlm.plan.closed_form.analytic import analyse
from jaxlm.plan.closed_form.facts import facts_of
from jaxlm.plan.closed_form.setting import setting_of
from jaxlm.plan.compiling import OutOfMemory, compile_on
from jaxlm.plan.memory import MemoryUse, of_refused
from jaxlm.plan.overrides import overrides_of
from jaxlm.plan.planning import ANALYTIC
from jaxlm.plan.roofline import roofline
from jaxlm.plan.search import divides, meshes, search, settings
from jaxlm.plan.shapes import batch_spec_of, planned
from jaxlm.plan.text import paragraph, setting_text
from jaxlm.run import load_run
from jaxlm.training.session import Session
from tests.plan.texts import config_of, facts_for
from tests.tiny import load

PRETRAIN = Path(__file__).parents[2] / "configs" / "pretrain"
NAME = "v5e_fsdp8_tensor2"
V5E, H100 = Topology.read("v5e:4x4"), Topology.read("h100:2x8")


def quiet(_: str) -> None:
    pass


def large(**changes):
    """A config whose step has no room on sixteen v5e chips: three thousand million
    parameters, and 8,192 tokens on each."""
    config = config_of(NAME)
    model = config.model.replace(num_layers=48, hidden_size=4096)
    train = config.train.replace(batch_size=64)
    return config.replace(model=model, train=train, **changes)


# ---------------------------------------------------------------------------------------- the batch


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_the_batch_is_the_loaders_without_its_data(name):
    config = load(name).config
    session = Session.open(config, report=quiet)
    with session.train_loader() as loader:
        batch = next(loader.batches())
    batch.pop("id")
    found = batch_spec_of(planned(session.config), session.program.mesh)
    assert {k: (x.shape, x.dtype) for k, x in found.items()} == {
        k: (x.shape, x.dtype) for k, x in batch.items()
    }


def test_what_only_data_can_tell_is_asked_for():
    config = load("transformer").config
    with pytest.raises(UserError, match="model.vocab_size: null.*such as model.vocab_size=32768"):
        planned(config.replace(model=config.model.replace(vocab_size=None)))
    with pytest.raises(UserError, match="data: null, so rows have no length"):
        planned(config.replace(data=None))


# -------------------------------------------------------------------------------------------- plans


def test_a_gpu_is_answered_by_the_analytic_model_and_marked_so():
    found = plan_run(config_of(NAME), H100, tokens=1e12, report=quiet)
    assert found.source == ANALYTIC and found.memory.verdict == "likely fits"
    assert not found.safe  # nothing that was not compiled is called so
    text = render(found)
    assert "analytic, not compiled" in text and "steps are not compiled here" in text
    rate = 16 * 2048 / found.roofline.step
    assert found.speed.days == pytest.approx(1e12 / rate / 86_400)
    assert found.speed.cost == pytest.approx(1e12 / rate / 3600 * 16 * 11.06)


@pytest.mark.parametrize("installed", [True, False])
def test_a_plan_for_gpus_is_the_same_whatever_is_installed_here(monkeypatch, installed):
    find = importlib.util.find_spec
    cuda = lambda name, *a: installed or None if name in cudnn.CUDA else find(name, *a)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", cuda)
    kinds = {
        (name, size): plan_run(wide_heads(size), Topology.read(f"{name}:2x8"), report=quiet).notes
        for name in ("h100", "a100")
        for size in (128, 256)
    }
    taken = {key: notes[-1].split("taken to be ")[1].split(",")[0] for key, notes in kinds.items()}
    assert taken == {
        ("h100", 128): "cudnn",
        ("h100", 256): "cudnn",
        ("a100", 128): "cudnn",
        ("a100", 256): "blocked",  # beyond what cuDNN can do on an A100
    }
    assert kinds["h100", 256][-1].endswith("a machine with jaxlm[cuda] and NVIDIA H100 SXM")


def wide_heads(size: int):
    config = config_of(NAME)
    attention = config.model.attention.replace(head_dim=size)
    return config.replace(model=config.model.replace(attention=attention))


def test_nodes_share_the_slow_network():
    found = plan_run(config_of(NAME), H100, analytic=True, report=quiet)
    # eight ways with tensor 2: over both nodes, as norms are, which are summed together
    assert set(found.roofline.dcn) == {"fsdp", "fsdp+tensor"}
    assert "tensor" in found.roofline.ici and "tensor" not in found.roofline.dcn


def test_axes_that_are_summed_together_are_over_as_many_nodes_as_there_are():
    """Data and fsdp, each over two of four nodes: together over all; never over more than exist."""
    for name, mesh, nodes in (
        ("h100:4x8", {"data": 2, "fsdp": 8, "tensor": 2}, 4),
        ("h100:3x8", {"data": 2, "fsdp": 12, "tensor": 1}, 3),
    ):
        facts, topology = facts_of(config_of(NAME)), Topology.read(name)
        setting = setting_of(facts, mesh, topology)
        axes = ("data", "fsdp", "tensor") if mesh["tensor"] > 1 else ("data", "fsdp")
        found = analyse(facts, setting, topology).load.transfers
        assert {t.slices for t in found if t.axes == axes} == {nodes}


def test_a_plan_without_room_says_what_holds_it_and_what_makes_room(tmp_path):
    config = large(mesh=config_of(NAME).mesh.replace(fsdp=16, tensor=1))
    config = config.replace(model=config.model.replace(remat="none"))
    found = plan_run(config, V5E, analytic=True, report=quiet)
    assert found.memory.verdict == "does not fit" and not found.safe
    told = paragraph(found)
    assert told in render(found) and "DOES NOT FIT" in render(found)
    largest = next(iter(found.memory.by_kind()))
    assert f"Largest: {largest}" in told and "First to try: " in told
    overrides = found.advice[0].overrides
    assert overrides[0] in told
    # and what it proposes has room
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config.replace(run_dir="runs/a")))
    assert plan_run(
        load_run(path, overrides).config, V5E, analytic=True, report=quiet
    ).memory.verdict == ("likely fits")


def test_a_tight_plan_is_reported_as_such_and_is_not_safe():
    found = plan_run(config_of(NAME), V5E, analytic=True, report=quiet)
    tight = replace(found, memory=replace(found.memory, limit=found.memory.total * 1.05))
    assert (tight.memory.verdict, tight.safe) == ("tight", False)
    told = paragraph(tight)
    assert "more than the 85% that leave room to spare" in told and "too much" not in told
    assert "TIGHT: not safe" in render(tight)


def test_proposals_are_better_by_the_models_own_figures():
    facts = facts_for(NAME)
    setting = setting_of(facts, {"data": 1, "fsdp": 8, "tensor": 2}, V5E)
    now = roofline(analyse(facts, setting, V5E).load, V5E).step
    found = proposals(facts, setting, V5E)
    assert found and all(p.step < now and p.verdict == "likely fits" for p in found)
    assert [p.step for p in found] == sorted(p.step for p in found)


@pytest.mark.parametrize("needed", [None, 20e9])
def test_what_would_make_room_takes_less_than_what_was_refused(needed):
    """The compiler finds more than the analytic model, which alone would have called it small."""
    facts = facts_for(NAME)
    setting = setting_of(facts, {"data": 1, "fsdp": 8, "tensor": 2}, V5E)
    setting = replace(setting, remat="dots", batch_size=16 * setting.batch_size)
    now = analyse(facts, setting, V5E).memory
    refused = of_refused(OutOfMemory(needed, 16e9, "no room"), now.parts, V5E)
    assert now.total < 0.5 * refused.limit
    least = 1.0 if needed is None else needed - now.total
    for p in proposals(facts, setting, V5E, refused):
        assert refused.limit - now.total < p.memory < refused.share * refused.limit
        assert p.memory - max(least, refused.limit - now.total) < now.total


def test_what_a_compiler_found_stays_where_something_else_changes():
    facts = facts_for(NAME)
    setting = setting_of(facts, {"data": 1, "fsdp": 8, "tensor": 2}, V5E)
    now = analyse(facts, setting, V5E).memory
    found = replace(
        now,
        parts=[*now.parts, MemoryUse(kind="temporaries", module="", num_bytes=5e9)],
        compiled=True,
    )
    alone = {p.overrides: p.memory for p in proposals(facts, setting, V5E)}
    for p in proposals(facts, setting, V5E, found):
        assert p.memory == pytest.approx(alone[p.overrides] + 5e9)


@pytest.mark.parametrize(
    ("topology", "word", "rate"),
    [
        ("v5e:4x4", "int8", 2),
        ("v5e:4x4", "fp8", 1),
        ("a100:2x8", "fp8", 1),
        ("h100:2x8", "fp8", 1979 / 989),
    ],
)
def test_products_in_8_bits_are_as_fast_as_the_chip_has_them(topology, word, rate):
    config, pod = config_of(NAME), Topology.read(topology)
    pieces = []
    for model in (config.model, config.model.replace(quantization=word)):
        facts = facts_of(config.replace(model=model))
        setting = setting_of(facts, {"data": 1, "fsdp": 8, "tensor": 2}, pod)
        work = analyse(facts, setting, pod)
        maps = sum(p.flops / pod.peak_per_device(p.dtype) for p in work.load.pieces)
        pieces.append((maps, work.by_module))
    (wide, modules), (narrow, same) = pieces
    layers = modules["ffn"] + modules["attention"] - _scores(config, pod)
    saved = layers * (1 - 1 / rate) / pod.peak_per_device("bf16")
    assert same == modules and wide - narrow == pytest.approx(saved, rel=1e-6)


def _scores(config, pod) -> float:
    """FLOPs of attention without its maps."""
    facts = facts_of(config)
    setting = setting_of(facts, {"data": 1, "fsdp": 8, "tensor": 2}, pod)
    return sum(p.kernel_flops for p in analyse(facts, setting, pod).load.pieces)


def test_experts_elsewhere_have_room_for_the_rows_of_all():
    """Libtpu took 5.83 GiB of this step; rows elsewhere have 0.5 GiB each time they are held."""
    words = ["model.num_layers=2", "model.hidden_size=1024", "model.attention.num_heads=8"]
    words += ["model.attention.num_kv_heads=2", "model.ffn.intermediate_size=1024"]
    words += ["train.batch_size=32", "train.accumulation=1", "mesh.topology=v5e:2x4"]
    found = {}
    for axis, others in (("fsdp", "mesh.expert=1"), ("expert", "mesh.fsdp=1")):
        mesh = [f"mesh.{axis}=8", others, "mesh.data=1"]
        config = load_run(PRETRAIN / "mixtral_8x7b.yaml", [*words, *mesh]).config
        plan = plan_run(config, Topology.read("v5e:2x4"), analytic=True, report=quiet)
        found[axis] = plan.memory.total
    rows = 4 * 4096 * 2 * 8  # of a device: tokens, copies, devices
    assert found["expert"] - found["fsdp"] > 0.8 * 7 * rows * 1024 * 2
    assert 5.83 * 2**30 / 1.6 < found["expert"] < 1.2 * 5.83 * 2**30


def test_a_mesh_that_does_not_divide_is_the_error_of_training():
    config = config_of(NAME)
    config = config.replace(mesh=config.mesh.replace(fsdp=1, tensor=16))
    with pytest.raises(UserError, match="cannot be split over 16 devices of mesh axis tensor"):
        plan_run(config, V5E, analytic=True, report=quiet)


def test_slices_that_the_axis_between_them_does_not_fill_are_an_error():
    with pytest.raises(UserError, match="mesh.data: 1 parts cannot be divided over 2 slices"):
        two = Topology.read("v5e:2x4", slices=2)
        plan_run(config_of(NAME), two, analytic=True, report=quiet)


SEQ2SEQ = ("objective={type: span_corruption}", "model={type: rnn_seq2seq, vocab_size: 264}")


def test_a_recurrent_encoder_decoder_is_not_known_to_the_analytic_model():
    with pytest.raises(UserError, match="the analytic model does not know a rnn_seq2seq"):
        plan_run(load("t5", *SEQ2SEQ).config, H100, report=quiet)


@pytest.mark.parametrize(("name", "kinds"), [("t5", "blocked and whole"), ("lstm", None)])
def test_other_models_are_planned_for_gpus(name, kinds):
    config = load(name, "mesh.fsdp=8", "mesh.data=2", "train.batch_size=16").config
    found = plan_run(config, H100, report=quiet)
    assert found.source == ANALYTIC and found.memory.verdict == "likely fits"
    assert found.roofline.step > 0 and 0 < found.speed.mfu_causal <= found.speed.mfu_full
    told = [note for note in found.notes if note.startswith("attention is taken to be")]
    assert (told == []) == (kinds is None)
    assert kinds is None or f"to be {kinds}, as on" in told[0]


def test_an_encoder_that_keeps_something_else_is_reported():
    how = "model.remat=full", "model.encoder.remat=dots", "mesh.data=16", "train.batch_size=16"
    config = load("t5", *how).config
    found = plan_run(config, V5E, analytic=True, report=quiet)
    assert "remat full (the encoder's dots), 1 micro" in setting_text(found)
    equal = config.replace(model=config.model.replace(remat="dots"))
    assert "remat dots, 1 m" in setting_text(plan_run(equal, V5E, analytic=True, report=quiet))


def test_stages_of_layers_that_cannot_be_a_pipeline_are_the_error_of_training():
    config = load("lstm", "mesh.data=1", "mesh.stage=2", "mesh.fsdp=8").config
    with pytest.raises(UserError, match="mesh.stage: the layers of a rnn cannot be a pipeline"):
        plan_run(config, V5E, analytic=True, report=quiet)


@pytest.mark.parametrize("analytic", [True, False])
def test_an_objective_that_its_model_cannot_learn_is_the_error_of_training(analytic):
    config = load("t5", "objective={type: causal_lm}", "mesh.fsdp=16").config
    with pytest.raises(UserError, match="causal_lm has no source text for the model's encoder"):
        plan_run(config, V5E, analytic=analytic, report=quiet)


def test_a_model_within_a_classifier_is_not_known_to_the_analytic_model():
    config = load(
        "transformer",
        "objective={type: classification, classes: [a, b]}",
        "data={type: examples, source: {type: text, files: a.txt}, seq_len: 64}",
    ).config
    with pytest.raises(UserError, match="model does not know a classification; plan it"):
        plan_run(config, H100, report=quiet)


@pytest.mark.parametrize("name", [pytest.param("t5", marks=pytest.mark.slow), "glm"])
def test_utilisation_is_of_all_that_the_rows_cost_and_the_rate_of_their_data(name, monkeypatch):
    """T5's rows are a source and a short target, GLM's have more tokens than the data."""
    config = load(name, "mesh.data=8", "train.batch_size=16").config

    def compile_here(config, topology, *, quick):
        return compile_on(config, config.mesh.build(), {}, platform="cpu")

    monkeypatch.setattr(planning, "can_compile", lambda topology: "")
    monkeypatch.setattr(planning, "compile_for", compile_here)
    topology = Topology.read("v5e:2x4")
    found = plan_run(config, topology, report=quiet)
    rate = 16 * 32 / found.roofline.step
    assert found.speed.tokens_per_second == pytest.approx(rate)
    targets = found.compiled.batch_spec["targets"].shape  # of each of which it is so many FLOPs
    model = math.prod(targets) * found.compiled.program.flops_per_token(32)
    peak = 8 * topology.peak_per_device()
    assert found.speed.mfu_causal == pytest.approx(3 * model / found.roofline.step / peak)
    assert targets[1] != 32


# ---------------------------------------------------------------------------------------- searches


def test_a_search_tries_every_mesh_that_divides():
    facts = facts_for(NAME)
    base = setting_of(facts, {"data": 16}, V5E)
    tried = list(meshes(facts, V5E, base))
    assert all(math.prod(mesh.values()) == 16 for mesh in tried)
    sizes = {(m["data"], m["fsdp"], m["tensor"]) for m in tried if m["stage"] == 1}
    assert len(sizes) == 15  # data x fsdp x tensor = 2^4
    assert {m["stage"] for m in tried} == {1, 2}  # six layers
    good = [m for m in tried if divides(facts, replace(base, mesh=m))]
    assert {m["tensor"] for m in good} == {1, 2, 4}  # four heads for keys


def test_a_search_ranks_by_time_and_nothing_it_tried_is_faster():
    facts = facts_for(NAME)
    base = setting_of(facts, {"data": 16}, V5E)
    found = search(facts, V5E, base)
    fitting = [c for c in found if c.verdict == "likely fits"]
    assert [c.step for c in fitting] == sorted(c.step for c in fitting)
    own = analyse(facts, setting_of(facts, {"data": 1, "fsdp": 8, "tensor": 2}, V5E), V5E)
    assert found[0].step < roofline(own.load, V5E).step


def test_a_search_tries_whole_parameters_repeats_rings_and_the_axis_between_slices():
    """Each where it can matter alone, and each is some candidate's."""
    config = config_of(NAME)
    long = config.replace(
        data=config.data.replace(seq_len=32768), model=config.model.replace(num_layers=8)
    )
    facts, two = facts_of(long), Topology.read("v5e:2x4", slices=2)
    found = search(facts, two, setting_of(facts, {"data": 16}, two))
    pairs = {"zero": set(), "repeats": set(), "dcn": set(), "context": set()}
    for c in found:
        s = c.setting
        assert s.along("fsdp") > 1 or s.zero == 3
        assert s.along("stage") > 1 or s.stage_repeats == 1
        assert 8 % (s.along("stage") * s.stage_repeats) == 0
        assert s.along(s.dcn) % 2 == 0
        assert s.along("context") > 1 or c.context == "auto"
        pairs["zero"].add(s.zero)
        pairs["repeats"].add(s.stage_repeats)
        pairs["dcn"].add(s.dcn)
        pairs["context"].add(c.context)
    assert pairs == {
        "zero": {1, 3},
        "repeats": {1, 2, 4},
        "dcn": {"data", "stage"},
        "context": {"auto", "ring"},
    }
    assert len(found) == len({(str(c.setting), c.context) for c in found})


def test_fsdp_is_between_slices_where_the_config_has_it_so():
    two = Topology.read("v5e:2x4", slices=2)
    base = replace(setting_of(facts_for(NAME), {"data": 16}, two), dcn="fsdp")
    tried = [s for s in settings(facts_for(NAME), two, base) if s.dcn == "fsdp"]
    assert tried and all(s.along("data") == s.along("stage") == 1 for s in tried)


def test_pieces_of_a_pipeline_are_whole_periods():
    config = config_of(NAME)
    attention = config.model.attention.replace(window=(128, None))
    facts = facts_of(config.replace(model=config.model.replace(attention=attention)))
    base = setting_of(facts, {"data": 16}, V5E)
    assert {m["stage"] for m in meshes(facts, V5E, base)} == {1}  # six layers, three periods


def test_what_a_search_finds_is_what_a_plan_of_it_says(tmp_path):
    """The winner of each kind as a config: the same step, the same memory, the same words."""
    config = config_of(NAME)
    long = config.replace(
        data=config.data.replace(seq_len=32768), model=config.model.replace(num_layers=8)
    )
    facts, two = facts_of(long), Topology.read("v5e:2x4", slices=2)
    found = search(facts, two, setting_of(facts, {"data": 16}, two))
    kinds = {
        "zero": lambda c: c.setting.zero == 1,
        "repeats": lambda c: c.setting.stage_repeats > 1,
        "stage": lambda c: c.setting.dcn == "stage",
        "ring": lambda c: c.context == "ring",
    }
    for kind in kinds.values():
        first = next(c for c in found if kind(c))
        plan = plan_run(overrides_of(first, long, two), two, analytic=True, report=quiet)
        assert plan.roofline.step == pytest.approx(first.step)
        assert plan.memory.total == pytest.approx(first.work.memory.total)
        assert setting_text(plan) == first.label
        assert plan.speed.mfu_causal == pytest.approx(first.speed.mfu_causal)


T5 = "data.seq_len=128", "train.batch_size=64"
RNN = "data.seq_len=16384", "train.batch_size=64"  # long enough to be split, if it could be


@pytest.mark.parametrize(
    ("name", "overrides", "axes", "policies"),
    [
        ("lstm", RNN, {"data", "fsdp", "tensor"}, {"none", "full"}),
        ("t5", T5, {"data", "fsdp", "tensor"}, {"none", "dots", "named", "full"}),
    ],
)
def test_what_a_search_of_other_models_finds_can_be_trained(name, overrides, axes, policies):
    """No axis and no policy that the model has not; and as a config each is what was found."""
    config = planned(load(name, *overrides).config)
    facts = facts_of(config)
    base = setting_of(facts, {"data": 16}, V5E)
    tried = list(settings(facts, V5E, base))
    assert {a for s in tried for a, n in s.mesh.items() if n > 1} == axes
    assert {s.remat for s in tried} == policies
    found = search(facts, V5E, base)
    for policy in policies:
        first = next(c for c in found if c.setting.remat == policy)
        chosen = overrides_of(first, config, V5E)
        plan = plan_run(chosen, V5E, analytic=True, report=quiet)
        assert plan.roofline.step == pytest.approx(first.step)
        assert plan.memory.total == pytest.approx(first.work.memory.total)
        assert setting_text(plan) == first.label
        if name == "t5":
            assert chosen.model.encoder.remat == policy


@pytest.mark.parametrize(("name", "overrides"), [("lstm", RNN), ("t5", T5)])
def test_neighbours_of_other_models_are_configs_with_what_is_said(name, overrides, tmp_path):
    config = load(name, *overrides, "mesh.data=1", "mesh.fsdp=16", "train.accumulation=2").config
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config.replace(run_dir="runs/a")))
    facts = facts_of(planned(config))
    setting = setting_of(facts, config.mesh.shape(16), V5E)
    tried = [(words, s) for words, s in neighbours(facts, setting) if divides(facts, s)]
    assert len(tried) > 3
    for words, changed in tried:
        again = planned(load_run(path, words).config)
        own = setting_of(facts_of(again), again.mesh.shape(16), V5E)
        assert analyse(facts, changed, V5E) == analyse(facts_of(again), own, V5E)


def test_a_batch_that_no_mesh_divides_is_an_error():
    config = config_of(NAME)
    config = config.replace(train=config.train.replace(batch_size=7))
    with pytest.raises(UserError, match="divides the model and a batch of 7 rows; set train.ba"):
        search_plans(config, V5E, analytic=True, report=quiet)


def test_between_slices_there_is_only_the_named_axis():
    facts, two = facts_for(NAME), Topology.read("v5e:2x4", slices=2)
    base = setting_of(facts, {"data": 16}, two)
    assert {m["data"] % 2 for m in meshes(facts, two, base)} == {0}


def test_a_search_without_room_is_an_error():
    config = large()
    config = config.replace(model=config.model.replace(num_layers=900))
    with pytest.raises(UserError, match="no mesh, remat or offload has room"):
        search_plans(config, V5E, analytic=True, report=quiet)


# ---------------------------------------------------------------------------------------- the verb


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config_of(NAME).replace(run_dir="runs/mine")))
    return path


def test_a_search_writes_a_config_that_loads_and_is_what_it_says(config_file, tmp_path, capsys):
    stem = tmp_path / "best"
    words = ["plan", str(config_file), "--topology", "v5e:4x4", "--search", "--analytic"]
    assert main([*words, "--out", str(stem)]) == 0
    table = (tmp_path / "best.tsv").read_text().splitlines()
    head, first = (
        dict(zip(table[0].split("\t"), row.split("\t"), strict=True)) for row in table[:2]
    )
    for row in table[1:]:  # those that were not planned have all figures, too
        assert all(row.split("\t"))
        told = dict(zip(table[0].split("\t"), row.split("\t"), strict=True))
        assert 0 < float(told["mfu_causal"]) < 1
    won = load_run(tmp_path / "best.yaml").config
    assert won.run_dir == "runs/mine"
    again = plan_run(won, V5E, analytic=True, report=quiet)
    assert again.memory.verdict == "likely fits" and f"{again.speed.step:#.4g}" == first["step_s"]
    page = (tmp_path / "best.html").read_text()
    assert "<svg" in page and "Memory of a device over one step" in page
    assert "src=" not in page and "http" not in page.split("</style>")[1]


def test_a_searchs_winner_is_of_the_pod_that_was_planned(config_file, tmp_path, capsys):
    """And plans that pod again, whatever pod the config was of."""
    stem, elsewhere = tmp_path / "best", "mesh.topology=v6e:16x16"
    words = ["plan", str(config_file), elsewhere, "--topology", "v5e:2x4", "--slices", "2"]
    assert main([*words, "--search", "--analytic", "--out", str(stem)]) == 0
    capsys.readouterr()
    assert load_run(tmp_path / "best.yaml").config.mesh.topology == "2*v5e:2x4"
    assert main(["plan", str(tmp_path / "best.yaml"), "--analytic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["topology"] == "2*v5e:2x4"


def test_the_exit_code_says_whether_there_is_room(config_file, capsys):
    words = ["plan", str(config_file), "--analytic", "--topology"]
    assert main([*words, "v5e:4x4"]) == 0
    assert "LIKELY FITS: an estimate, not called safe" in capsys.readouterr().out
    too_much = ["model.num_layers=400", "model.hidden_size=8192", "model.remat=none"]
    assert main([*words, "v5e:4x4", *too_much]) == 1
    out = capsys.readouterr().out
    assert "DOES NOT FIT" in out and "FITS" not in out


def test_figures_as_json_and_as_a_table(config_file, tmp_path, capsys):
    words = ["plan", str(config_file), "--analytic", "--topology", "v5e:4x4", "--tokens", "1B"]
    assert main([*words, "--json", "--out", str(tmp_path / "a")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["plan"]["verdict"], found["plan"]["safe"]) == ("likely fits", "no")
    rows = [line.split("\t") for line in (tmp_path / "a.tsv").read_text().splitlines()[1:]]
    parts = [float(v) for s, n, v, u in rows if s == "memory" and n not in ("total", "limit")]
    total = next(float(v) for s, n, v, _ in rows if (s, n) == ("memory", "total"))
    assert sum(parts) == pytest.approx(total, abs=len(parts))
    assert found["memory"]["total, bytes"] == total


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save", "x", "--analytic"], "--save: keeps the optimized step"),
        (["--compile-best", "2"], "--compile-best: needs a search"),
        (["--quick", "--search"], "--quick: is for one compiled plan"),
    ],
)
def test_words_that_do_not_go_together(config_file, capsys, words, message):
    assert main(["plan", str(config_file), "--topology", "v5e:4x4", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        (
            ["v5e:4x8", "mesh.fsdp=64"],
            "mesh: fsdp 64 takes 64 devices but v5e:4x8 has 32; set mesh.fsdp=32 (or -1), or look "
            "for one by --search",
            ["mesh.fsdp=32"],
        ),
        (
            ["v5e:4x4", "mesh.fsdp=16", "--slices", "2"],
            "fsdp 16 takes 16 devices but 2*v5e:4x4 has 32; set mesh.data=2 (or -1), or",
            ["mesh.data=2"],
        ),
        (
            ["v5e:2x2", "mesh.fsdp=16", "--slices", "4"],
            "mesh.data: 1 parts cannot be divided over 4 slices; make it a multiple of 4",
            ["mesh.data=4", "mesh.fsdp=4"],
        ),
        (
            ["v5e:2x2", "mesh.fsdp=16", "--slices", "2"],
            "mesh: fsdp 16 takes 16 devices but 2*v5e:2x2 has 8; set mesh.data=2 mesh.fsdp=4, or",
            ["mesh.data=2", "mesh.fsdp=4"],
        ),
        (
            ["v5e:4x4", "mesh.data=-1", "mesh.fsdp=64"],
            "mesh: 16 devices cannot be split by data -1 x fsdp 64; set mesh.fsdp=16, or",
            ["mesh.fsdp=16"],
        ),
        (
            ["h100:3x4", "mesh.fsdp=1", "mesh.tensor=8"],
            "mesh: tensor 8 takes 8 devices but h100:3x4 has 12; set mesh.tensor=12 (or -1), or",
            ["mesh.tensor=4", "mesh.data=3"],
        ),
        (
            ["v5e:4x4", "mesh.num_devices=64"],
            "mesh.num_devices: 64 asked for, but v5e:4x4 has 16 devices; set mesh.num_devices=null",
            ["mesh.num_devices=null", "mesh.fsdp=16"],
        ),
    ],
)
def test_a_mesh_of_another_pod_is_told_what_to_set(config_file, capsys, words, said, fix):
    given = ["--analytic", "mesh.tensor=1", "train.batch_size=96", "--topology"]
    words = ["plan", str(config_file), *given, *words]
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert main([*words, *fix]) == 0


def test_a_topology_is_named_where_it_was_written(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    text = to_yaml(config_of(NAME).replace(run_dir="runs/mine"))
    path.write_text(text.replace("topology: null", "topology: v6e"))
    line = path.read_text().splitlines().index("  topology: v6e") + 1
    assert main(["plan", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"{path}:{line}: mesh.topology: 'v6e' has no shape; write it as in v6e:16x16" in said
    assert "--topology" not in said
    assert main(["plan", str(path), "mesh.topology=v5e:4x4x4"]) == 2
    assert "command line: mesh.topology: TPU v5e has 2 dims" in capsys.readouterr().err
    assert main(["plan", str(path), "--topology", "v6e"]) == 2
    assert "error: --topology: 'v6e' has no shape" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--analytic", "--search"])
def test_a_model_that_is_only_compiled_is_told_so(tmp_path, capsys, monkeypatch, word):
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(load("t5", *SEQ2SEQ).config.replace(run_dir="runs/mine")))
    words = ["plan", str(path), word, "--topology"]
    monkeypatch.setattr("jaxlm.plan.planning.can_compile", lambda topology: "")
    assert main([*words, "v5e:2x4"]) == 2
    assert f"; leave out {word}: for v5e:2x4 the step itself" in capsys.readouterr().err
    monkeypatch.setattr("jaxlm.plan.planning.can_compile", lambda topology: "libtpu is missing")
    assert main([*words, "v5e:2x4"]) == 2
    assert "; the step can be compiled instead, but here libtpu is" in capsys.readouterr().err
    assert main([*words, "h100:1x8"]) == 2
    assert "; plan it for a TPU topology, such as v5p:4x4x8" in capsys.readouterr().err


def test_a_tpu_without_its_compiler_is_answered_and_said(config_file):
    """In a process of its own, for it chooses the platform."""
    code = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'libtpu' else find(n, *a)\n"
        "from jaxlm.cli import main\n"
        f"sys.exit(main(['plan', {str(config_file)!r}, '--topology', 'v5e:4x4']))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "analytic, not compiled" in found.stdout
    assert "libtpu is missing; `pip install 'jaxlm[tpu]'` brings it" in found.stdout


def test_libtpu_is_told_of_the_machine_while_it_loads_alone(monkeypatch):
    names = ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TPU_WORKER_ID", "7")
    before, own = dict(os.environ), {"TPU_WORKER_ID": "7"}
    seen: list[dict[str, str]] = []
    with pytest.raises(KeyError), compiling.machine_described(tpus=False):
        seen.append({name: os.environ[name] for name in names})
        raise KeyError
    assert seen[0].keys() == set(names) and seen[0] | own == seen[0]  # the user's stays
    assert dict(os.environ) == before
    with compiling.machine_described(tpus=True):  # it asks the machine that it is on
        assert dict(os.environ) == before


def test_facts_of_a_mixture_know_its_share():
    facts = facts_of(planned(load("moe").config))
    shares = {m.share for layers in facts.layers for m in layers.maps}
    assert shares == {1.0, 2 / 8}
