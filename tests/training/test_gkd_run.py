"""Runs of GKD: the student's own texts at some steps, those of the records at the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxlm import api
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten
from jaxlm.data.rows.batched import stack
from jaxlm.generate import Generator
from jaxlm.mesh import to_global_whole
from jaxlm.objectives.base import record_rng
from jaxlm.objectives.gkd import GKD, OWN
from jaxlm.run import load_saved
from jaxlm.training.loading import load_trained
from jaxlm.training.session import Session
from tests.training import sums as records

ONE = "mesh={data: 1, num_devices: 1}"
OWN_STEPS = [False, True, True, False]  # of seed 1 with this lmbda
LMBDA = 0.53
pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return records.write(tmp_path_factory.mktemp("sums") / "sums.jsonl")


@pytest.fixture(scope="module")
def teacher(sums: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert api.fit(records.load(sums, folder, ONE, "train.steps=2")).code == 0
    return folder


def config_of(sums: Path, teacher: Path, run: Path, *changes: str) -> Any:
    objective = f"{{type: gkd, teacher: {{from: {teacher}}}, max_tokens: 6, lmbda: {LMBDA}}}"
    small = ("model.hidden_size=16", "model.num_layers=1", "model.dropout=0")
    return records.load(sums, run, f"objective={objective}", *small, *changes)


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())["final"]
    return found


def test_a_run_that_is_cut_anywhere_ends_in_the_same_weights(
    sums: Path, teacher: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    changes = ("eval.at_end=true", "logging.every_steps=1")
    assert api.fit(config_of(sums, teacher, run, ONE, *changes)).code == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = {line["step"]: line["train/own_texts"] for line in lines if "train/own_texts" in line}
    assert own == {i + 1: float(is_own) for i, is_own in enumerate(OWN_STEPS)}
    final = result(run)
    assert final["eval/divergence"] > 0  # on the records' own completions
    for step in (3, 2, 1):
        (run / "result.json").unlink()
        for later in range(step + 1, 5):
            shutil.rmtree(run / "checkpoints" / f"{later:08d}")
        assert api.fit(load_saved(run), must_exist=True).result["final"] == final


@pytest.fixture(scope="module")
def one_device(
    sums: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """Plain SGD: a small difference of the gradients stays one."""
    folder = tmp_path_factory.mktemp("one") / "run"
    assert api.fit(config_of(sums, teacher, folder, ONE, *SGD)).code == 0
    return params_of(folder)


SGD = ("optimizer={type: sgd, learning_rate: 0.1}", "train.steps=2")


def params_of(run: Path) -> dict[str, np.ndarray]:
    return flatten(load_trained(str(run), report=lambda _: None)[2])


@pytest.mark.parametrize(
    "change",
    [pytest.param("train.accumulation=2", marks=pytest.mark.slow), "mesh={data: 4, fsdp: 2}"],
)
def test_accumulation_and_devices_change_nothing(
    one_device: dict[str, np.ndarray], sums: Path, teacher: Path, tmp_path: Path, change: str
) -> None:
    mesh = () if change.startswith("mesh") else (ONE,)
    run = tmp_path / "run"
    assert api.fit(config_of(sums, teacher, run, *mesh, *SGD, change)).code == 0
    for path, value in params_of(run).items():
        np.testing.assert_allclose(value, one_device[path], atol=1e-6, err_msg=path)


def test_packed_texts_give_the_weights_of_unpacked_ones(
    sums: Path, teacher: Path, tmp_path: Path
) -> None:
    """Both kinds of steps are there; the records' own completions have a row each."""
    found = {}
    for name in ("null", "whole"):
        run = tmp_path / name
        changes = (*SGD, "train.steps=3", "data.seq_len=40", f"objective.packing={name}")
        assert api.fit(config_of(sums, teacher, run, ONE, *changes)).code == 0
        found[name] = params_of(run)
    for path, value in found["whole"].items():
        np.testing.assert_allclose(value, found["null"][path], atol=1e-6, err_msg=path)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "00000003")
    assert api.fit(load_saved(run), must_exist=True).code == 0
    for path, value in params_of(run).items():
        np.testing.assert_array_equal(value, found["whole"][path], err_msg=path)


def test_rows_are_the_students_own_texts_or_those_of_the_records(
    sums: Path, teacher: Path, tmp_path: Path
) -> None:
    config = config_of(sums, teacher, tmp_path / "run", ONE, "objective.weight=0.3").config
    session = Session.open(config, report=lambda _: None)
    learner, pieces = session.learner, session.prepared.tokenizer
    assert learner is not None
    with session.train_loader() as loader, jax.set_mesh(learner.mesh):
        state = learner.create()
        rows = stack([loader.row(i) for i in range(8)])
        rows.pop("id")

        def batch(step: int) -> dict[str, np.ndarray]:
            state["step"] = jax.device_put(np.int32(step))
            on_mesh = to_global_whole(rows, learner.mesh)
            return jax.device_get(dict(learner.batch(state, learner.frozen, on_mesh)))

        recorded, own, again = batch(0), batch(1), batch(1)
    for name, value in rows.items():
        if name != "record":
            np.testing.assert_array_equal(recorded[name], value, err_msg=name)
    assert (recorded[OWN] == 0).all() and (own[OWN] == 1).all()
    assert recorded.keys() == own.keys()
    for name, value in own.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
        assert value.shape == recorded[name].shape and value.dtype == recorded[name].dtype
    # the student's draws, of the seed of the step, and nothing else has a weight
    records = session.prepared.splits["train"].records_of  # type: ignore[attr-defined]
    prompts = [
        [pieces.bos_id, *pieces.encode(records(number)[0]["prompt"])] for number in rows["record"]
    ]
    eos, pad = pieces.eos_id, pieces.pad_id
    sampling = config.objective.sampling
    generator = Generator(session.program, sampling, eos_id=eos, pad_id=pad, prompt_length=11)
    seed = record_rng(config.seed, 1).randint(2**31 - 1)
    drawn = generator.with_scores(state["params"], prompts, seed=seed)
    for row, (prompt, (ids, _)) in enumerate(zip(prompts, drawn, strict=True)):
        written = ids.tolist()
        if eos in written:
            written = written[: written.index(eos) + 1]
        counts = own["loss_weights"][row] > 0
        assert own["targets"][row][counts].tolist() == written
        assert counts.argmax() == len(prompt) - 1 and counts.sum() == len(written)
        assert own["tokens"][row][: len(prompt)].tolist() == prompt
    # the cross entropy is of texts of the data alone
    program = session.program
    beside = {"teacher": load_trained(str(teacher), report=lambda _: None)[2]}

    @jax.jit
    def loss(params: Any, batch: Any) -> Any:
        model = nnx.merge(program.graphdef, params)
        others = program.beside(params, beside)
        found = program.objective.loss_beside(model, others, batch, key=None, cache=None)
        return found.loss_sum, found.metrics["divergence"][0], found.metrics["loss"][0]

    with jax.set_mesh(program.mesh):
        for rows_of, share in ((recorded, 0.3), (own, 1.0)):
            total, far, plain = jax.device_get(loss(state["params"], rows_of))
            assert total == pytest.approx(share * far + (1 - share) * plain, rel=1e-5)


def test_lmbda_is_the_share_of_own_steps(teacher: Path) -> None:
    shares = {}
    for lmbda in (0.0, 0.3, 1.0):
        objective = GKD(teacher={"from_": str(teacher)}, lmbda=lmbda)  # type: ignore[arg-type]
        shares[lmbda] = np.mean([objective.writes(step, 7) for step in range(2000)])
    assert shares[0.0] == 0 and shares[1.0] == 1 and abs(shares[0.3] - 0.3) < 0.04
    other = [objective.replace(lmbda=0.5).writes(step, 8) for step in range(50)]
    assert other != [objective.replace(lmbda=0.5).writes(step, 7) for step in range(50)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.packing=whole", "data.packing: gkd needs a record a row"),
        ("data.seq_len=8", "the prompt of training record .* room for 3 beside"),
        ("model.attention.is_causal=false", "gkd needs a model that continues its prompt"),
        ("objective.top_k=3", "top_k: divergence jsd has none"),
    ],
)
def test_what_cannot_be_is_one_line(
    sums: Path, teacher: Path, tmp_path: Path, change: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as error:
        api.fit(config_of(sums, teacher, tmp_path / "run", ONE, change))
    assert "\n" not in str(error.value)
