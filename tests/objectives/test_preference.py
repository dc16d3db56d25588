"""Objectives of preference: layout, accumulation, devices, the frozen reference, resuming."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxlm import api
from jaxlm.checkpoint.hashing import param_sha256
from jaxlm.core.tree import flatten, unflatten
from jaxlm.data.rows.encoded import EncodedRows, PackedRecords
from jaxlm.data.tokenizers.base import ByteTokenizer
from jaxlm.evals.run import evaluate_run
from jaxlm.mesh import MeshConfig
from jaxlm.objectives import rotated
from jaxlm.run import load_saved
from jaxlm.tasks.kto import KTO
from jaxlm.tasks.preference import Preference
from jaxlm.training import build
from jaxlm.training.loading import load_trained
from jaxlm.training.references import start_references
from jaxlm.training.step import gradients
from tests import tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

SUMS = [(f"{a}+{b}=", str(a + b), str(a + b + 1 + a % 2 * 90)) for a in range(3) for b in (4, 48)]
PAIRS = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in SUMS]
ANSWERS = [
    {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
    for n, pair in enumerate(PAIRS)
    for side in [("chosen", "rejected")[n % 2]]
]
LENGTH = 32
OBJECTIVES = {
    "dpo": "{type: dpo, beta: 0.5, label_smoothing: 0.1}",
    "ipo": "{type: dpo, loss_type: ipo}",
    "orpo": "{type: orpo}",
    "simpo": "{type: simpo}",
    "reward": "{type: reward, centering: 0.01}",
    "kto": "{type: kto, undesirable_weight: 2}",
}


def config_of(name: str, *more: str) -> Any:
    shape = ("model.dropout=0", "sample.prompts=[]", "train.batch_size=8", "model.num_layers=1")
    config = tiny.load("transformer", f"objective={OBJECTIVES[name]}", *shape, *more).config
    return config.replace(model=config.model.replace(vocab_size=264), data=None)


def rows_of(name: str, packed: bool, count: int = 8) -> dict[str, np.ndarray]:
    """The examples as a batch of `count` rows, one in each or as many as fit."""
    records, task = (ANSWERS, KTO()) if name == "kto" else (PAIRS, Preference())
    objective, tokenizer = config_of(name).objective, ByteTokenizer()
    spec = task.row_spec(LENGTH if not packed else 3 * LENGTH, tokenizer.pad_id)
    rows: Any = EncodedRows(records, task, tokenizer, spec)
    if packed:
        lengths = np.array([task.length(r, tokenizer) for r in records])
        rows = PackedRecords(rows, *in_order(lengths, spec.sizes["T"]))
    transform = objective.host_transform(tokenizer, 0)
    made = [transform(rows.row(n), n) for n in range(len(rows))]
    made += [transform(spec.padding(), n) for n in range(len(rows), count)]
    return {key: np.stack([row[key] for row in made]) for key in made[0]}


def in_order(lengths: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Records packed in their own order, with some room left in each row."""
    first, used = [0], 0
    for n, size in enumerate(lengths):
        if used + size > room - 4:
            first.append(n)
            used = 0
        used += size
    return np.arange(len(lengths)), np.array([*first, len(lengths)])


@cache
def setup(
    name: str, mesh: MeshConfig = tiny.ONE, accumulation: int = 1, num_layers: int = 1
) -> Any:
    """(program, parameters, frozen): weights that are far from their reference."""
    sizes = f"train.accumulation={accumulation}", f"model.num_layers={num_layers}"
    config = config_of(name, *sizes).replace(mesh=mesh)
    program = build.program_of(config, mesh.build(), references=True)
    params = tiny.params_of(build.program_of(config, mesh.build()))
    trees, _ = start_references(config, program, params, {"seed": 1})
    moved = jax.tree.map(lambda x: 4 * x, params)
    return program, moved, trees


@cache
def measured(
    name: str,
    packed: bool = False,
    mesh: MeshConfig = tiny.ONE,
    accumulation: int = 1,
    num_layers: int = 1,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """(gradient by path, metrics) of one step, both divided by their weights."""
    program, params, frozen = setup(name, mesh, accumulation, num_layers)
    batch = tiny.on_mesh(rows_of(name, packed), program)
    with jax.set_mesh(program.mesh):
        key = jax.random.key(0)
        step = jax.jit(lambda p, f, b: gradients(program, p, f, b, None, key)[:3])
        grads, weight, metrics = jax.device_get(step(params, frozen, batch))
    ratios = {k: float(a / max(b, 1)) for k, (a, b) in metrics.items()}
    return {k: g / weight for k, g in flatten(grads).items()}, ratios


def check_equal(name: str, found: Any, want: Any, rtol: float = 2e-6) -> None:
    assert found[1].keys() == want[1].keys()
    # a margin is the difference of two rewards, in whose spacing as floats it is exact
    size = max(1.0, *map(abs, want[1].values()))
    for key, value in want[1].items():
        assert found[1][key] == pytest.approx(value, rel=rtol, abs=rtol * size), key
    largest = max(np.abs(g).max() for g in want[0].values())
    assert largest > 1e-4
    for path, g in want[0].items():
        np.testing.assert_allclose(found[0][path], g, rtol=rtol, atol=rtol * largest, err_msg=path)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_packed_rows_give_the_loss_and_the_gradient_of_unpacked_ones(name: str) -> None:
    packed = rows_of(name, True)
    assert packed["segment_ids"].max() > 2 and (packed["segment_ids"].max(1) > 0).sum() < 6
    check_equal(name, measured(name, packed=True), measured(name))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_give_the_gradient_of_the_whole_batch(name: str) -> None:
    check_equal(name, measured(name, accumulation=4), measured(name), rtol=1e-6)


def test_micro_batches_bound_what_mismatched_answers_need() -> None:
    """The logits of all rows [B, T, V] are in memory without accumulation alone."""
    batch, key = rows_of("kto", False), jax.random.key(0)
    found = []
    for accumulation in (1, 4):
        program, params, frozen = setup("kto", accumulation=accumulation)
        step = lambda p, f, b: gradients(program, p, f, b, None, key)[0]  # noqa: B023, E731
        with jax.set_mesh(program.mesh):
            text = str(jax.make_jaxpr(step)(params, frozen, batch))
        found.append([f"{rows},{LENGTH},264]" in text for rows in (8, 2)])
    assert found == [[True, False], [False, True]]


def test_an_answer_that_is_alone_in_its_batch_is_compared_with_0() -> None:
    program, params, frozen = setup("kto")
    batch = rows_of("kto", False)
    # D is positive where the model is the one that is less sure
    known = {"reference": params}
    positive = 0
    with jax.set_mesh(program.mesh):
        step = jax.jit(program.eval_step)
        for row in range(len(ANSWERS)):
            only = np.arange(8)[:, None] == row
            alone = {
                key: np.where(only if x.ndim > 1 else only[:, 0], x, 0) for key, x in batch.items()
            }
            sums, _ = step(frozen["reference"], tiny.on_mesh(alone, program), None, known)
            sums = jax.device_get(sums)
            assert sums["kl"] == (0, 1)
            positive += sums["reward_desirable"][0] + sums["reward_undesirable"][0] > 0
        assert positive  # whose own D would be z
        sums, _ = step(frozen["reference"], tiny.on_mesh(batch, program), None, known)
    assert sums["kl"][0] > 0


def test_rows_of_a_reward_have_the_tokens_that_data_seq_len_says() -> None:
    task, tokenizer, objective = Preference(), ByteTokenizer(), config_of("reward").objective
    spec = task.row_spec(16, tokenizer.pad_id)
    row = EncodedRows(PAIRS, task, tokenizer, spec).row(5)
    made = objective.transform_spec(spec)
    assert made.sizes["T"] == 16
    made.check(objective.host_transform(tokenizer, 0)(row, 0), "reward")


@pytest.mark.parametrize(
    ("name", "mesh", "num_layers"),
    [
        ("dpo", MeshConfig(data=2, context=2, stage=2), 2),  # which share the length at the head
        *(
            (name, MeshConfig(data=2, fsdp=2, tensor=2), 1)
            for name in ("ipo", "orpo", "reward", "kto")
        ),
        ("simpo", MeshConfig(data=1, fsdp=4, context=2), 1),
    ],
)
def test_eight_devices_give_the_gradient_of_one(
    name: str, mesh: MeshConfig, num_layers: int
) -> None:
    """A pipeline has a layer and a micro-batch for each stage."""
    want = measured(name, packed=True, num_layers=num_layers)
    found = measured(name, True, mesh, accumulation=mesh.stage, num_layers=num_layers)
    check_equal(name, found, want)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    program, params, frozen = setup(name)
    batch = tiny.on_mesh(rows_of(name, False), program)
    grads, metrics = measured(name)

    @jax.jit
    def loss(params: Any, z: Any) -> Any:
        model = jax.tree.map(jnp.asarray, params)
        known = program.beside(model, frozen)
        rows = batch if z is None else {**batch, "z": z}
        out = program.objective.loss_beside(
            nnx.merge(program.graphdef, model), known, rows, key=None, cache=None
        )
        return out.loss_sum / out.weight

    z = jnp.full(8, metrics["kl"]) if name == "kto" else None  # z has no gradient
    slope = np.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    step, flat = 2e-3, flatten(params)
    ends = [
        float(loss(unflatten({k: v + move * grads[k] / slope for k, v in flat.items()}), z))
        for move in (-step, step)
    ]
    assert (ends[1] - ends[0]) / (2 * step) == pytest.approx(slope, rel=0.01)


def test_mismatched_answers_are_those_of_the_sequence_before() -> None:
    for packed in (False, True):
        batch = rows_of("kto", packed)
        found = jax.device_get(jax.jit(rotated.rotated)(batch))
        texts = []
        for row in range(8):
            for segment in range(1, found["segment_ids"][row].max() + 1):
                at = found["segment_ids"][row] == segment
                assert (found["positions"][row][at] == np.arange(at.sum())).all()
                counts = found["loss_weights"][row][at] > 0
                whole = [*found["tokens"][row][at], found["targets"][row][at][-1]]
                assert (found["targets"][row][at][counts] == np.array(whole[1:])[counts]).all()
                texts.append((whole, counts.sum()))
        tokenizer = ByteTokenizer()
        answers = [a["completion"] for a in ANSWERS]
        want = [[*tokenizer.encode(a["prompt"] + answers[n - 1])] for n, a in enumerate(ANSWERS)]
        marks = len(Preference().one.encode(ANSWERS[0], tokenizer, 99)["tokens"])
        marks -= len(tokenizer.encode(ANSWERS[0]["prompt"] + answers[0]))
        assert [len(w) - marks for w, _ in texts] == [len(w) for w in want]
        for (whole, counted), ids, n in zip(texts, want, range(len(want)), strict=True):
            assert str(ids)[1:-1] in str([int(i) for i in whole])
            assert counted == len(tokenizer.encode(answers[n - 1])) + 1  # and the eos


@pytest.mark.parametrize("stored", ["null", "int8"])
def test_lora_needs_no_copy_of_its_reference(stored: str) -> None:
    lora = f"adapter={{type: lora, rank: 2, targets: [query], base_weights: {stored}}}"
    config = config_of("dpo", lora)
    learner = build.learner_of(config, tiny.ONE.build())
    assert set(learner.abstract_frozen()) == {"base"}
    assert set(build.learner_of(config_of("dpo"), tiny.ONE.build()).abstract_frozen()) == {
        "reference"
    }
    program, state = learner.program, learner.create()
    batch = tiny.on_mesh(rows_of("dpo", False), program)
    with jax.set_mesh(program.mesh):
        whole = learner.weights(state, learner.frozen)
        start, _ = jax.jit(program.eval_step)(whole, batch, None, {})
        adapter = jax.tree.map(lambda x: x + 0.3, state["params"])
        moved = learner.weights({"params": adapter}, learner.frozen)
        later, _ = jax.jit(program.eval_step)(moved, batch, None, {})
    assert float(start["loss"][0] / start["loss"][1]) == pytest.approx(np.log(2), abs=1e-6)
    assert float(start["margin"][0]) == 0 != float(later["margin"][0])


# --------------------------------------------------------------------------------------- whole runs


def write(folder: Path, records: list[dict[str, Any]], times: int = 3) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records * times))
    return path


def run(folder: Path, name: str, rows: Path, *more: str) -> Any:
    task = "kto" if name == "kto" else "preference"
    data = (
        f"data={{type: records, source: {{type: files, files: {rows}}}, task: {{type: {task}}}}}",
        "data={seq_len: 63, packing: whole, validation_fraction: 0.3}",
    )
    changes = (
        *tiny.FOUR_SMALL_STEPS,
        f"objective={OBJECTIVES[name]}",
        *data,
        f"run_dir={folder / name}",
        *more,
    )
    return api.fit(tiny.load("transformer", *changes))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    data = ("data.seq_len=16", "train.steps=2", f"run_dir={folder / 'base'}")
    assert api.fit(tiny.load("transformer", *tiny.FOUR_SMALL_STEPS, *data)).code == 0
    return folder / "base"


@pytest.mark.parametrize("name", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_a_run_that_is_cut_ends_in_the_same_weights(name: str, base: Path, tmp_path: Path) -> None:
    rows = write(tmp_path, ANSWERS if name == "kto" else PAIRS)
    outcome = run(tmp_path, name, rows, f"init.from={base}")
    assert outcome.code == 0
    folder = tmp_path / name
    named = json.loads((folder / "checkpoints/00000004/identity.json").read_text())["frozen"]
    params = load_trained(str(base), report=lambda _: None)[2]
    origin = {"run": str(base), "step": 2, "sha256": param_sha256(params)}
    assert named == {"reference": origin}
    stored = json.loads((folder / "checkpoints/00000004/state.json").read_text())
    assert not any("reference" in path for path in stored["arrays"])
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints/00000004")
    again = api.fit(load_saved(folder), must_exist=True)
    assert again.result["final"] == outcome.result["final"]
    _, measures = evaluate_run(str(folder), report=lambda _: None)
    values = {m.name: m.value for m in measures}
    assert values["eval/loss"] == pytest.approx(outcome.result["final"]["eval/loss"], rel=1e-6)
