"""Runs of GRPO: rollouts are a function of weights, seed and step, and rewards rise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxlm import api
from jaxlm.core.config import UserError
from jaxlm.core.sampling import Sampling
from jaxlm.core.tree import flatten
from jaxlm.data.rows.batched import stack
from jaxlm.generate import Generator
from jaxlm.mesh import to_global_whole
from jaxlm.objectives.base import record_rng
from jaxlm.run import load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.training.changes import check_changes
from jaxlm.training.session import Session
from tests import tiny
from tests.training import sums as records

ONE = "mesh={data: 1, num_devices: 1}"
HERE = "test_grpo_run"
pytestmark = pytest.mark.usefixtures("shared_programs")


def low_letters(record: dict[str, Any], text: str) -> float:
    """The share of characters below "P": a random model has about a half of them."""
    return sum(c < "P" for c in text) / 8


def nothing(record: dict[str, Any], text: str) -> float:
    return float("nan") if record["prompt"].startswith("1+") else 0.0


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return records.write(tmp_path_factory.mktemp("sums") / "sums.jsonl")


def config_of(sums: Path, run: Path, *changes: str) -> Any:
    objective = f"{{type: grpo, group_size: 4, max_tokens: 6, rewards: ['{HERE}:low_letters']}}"
    return records.load(sums, run, f"objective={objective}", *changes)


def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())["final"]
    return found


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, marks=pytest.mark.slow), 2],  # what serves two is part of checkpoints
    ids=["one step", "two steps"],
)
def run(request: Any, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rollouts serve one step, or two."""
    folder = tmp_path_factory.mktemp("grpo") / "run"
    several = f"objective.num_iterations={request.param}"
    assert api.fit(config_of(sums, folder, ONE, several, "eval.at_end=true")).code == 0
    return folder


def test_a_run_that_is_cut_anywhere_ends_in_the_same_weights(run: Path, tmp_path: Path) -> None:
    """Where rollouts serve two steps, checkpoint 1 is between these."""
    cut = tmp_path / "run"
    shutil.copytree(run, cut)
    for step in (3, 2, 1):
        (cut / "result.json").unlink()
        for later in range(step + 1, 5):
            shutil.rmtree(cut / "checkpoints" / f"{later:08d}")
        assert api.fit(load_saved(cut), must_exist=True).result["final"] == result(run)


def test_weights_change_and_lines_have_the_figures_of_rollouts(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "train/reward" in line][-1]
    assert 0 < last["train/reward"] <= 1 and last["train/reward_std"] > 0
    assert 1 <= last["train/completion_tokens"] <= 6 and 0 <= last["train/truncated"] <= 1
    assert last["train/entropy"] > 1 and last["train/grad_norm"] > 0
    assert result(run)["eval/loss"] > 0  # of the records' own completions


def params_of(run: Path) -> dict[str, np.ndarray]:
    from jaxlm.training.loading import load_trained

    return flatten(load_trained(str(run), report=lambda _: None)[2])


@pytest.fixture(scope="module")
def two_steps(sums: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Plain SGD: a small difference of the gradients stays one."""
    folder = tmp_path_factory.mktemp("two") / "run"
    assert api.fit(config_of(sums, folder, ONE, *SGD)).code == 0
    return params_of(folder)


RATE = "optimizer={type: sgd, learning_rate: 0.1}"
SGD = (RATE, "train.steps=2", "objective.num_iterations=2")  # both of what the first weights wrote


@pytest.mark.parametrize(
    "change",
    [pytest.param("train.accumulation=2", marks=pytest.mark.slow), "mesh={data: 4, fsdp: 2}"],
)
def test_accumulation_and_devices_change_nothing(
    two_steps: dict[str, np.ndarray], sums: Path, tmp_path: Path, change: str
) -> None:
    mesh = () if change.startswith("mesh") else (ONE,)
    assert api.fit(config_of(sums, tmp_path / "run", *mesh, *SGD, change)).code == 0
    for path, value in params_of(tmp_path / "run").items():
        np.testing.assert_allclose(value, two_steps[path], atol=1e-6, err_msg=path)


# -------------------------------------------------------------------------------------- packed rows

PACKED = ("objective.packing=whole", "data.seq_len=40")


@pytest.fixture(scope="module")
def unpacked(sums: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("unpacked") / "run"
    assert api.fit(config_of(sums, folder, ONE, RATE, "train.steps=2", "data.seq_len=40")).code == 0
    return params_of(folder)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(ONE, marks=pytest.mark.slow),
        "train.accumulation=2",
        "mesh={data: 2, num_devices: 2}",
    ],
)
def test_packed_equals_unpacked_and_is_resumed(
    unpacked: dict[str, np.ndarray], sums: Path, tmp_path: Path, change: str
) -> None:
    run = tmp_path / "run"
    mesh = () if change.startswith("mesh") else (ONE,)
    config = config_of(sums, run, *mesh, RATE, "train.steps=2", *PACKED, change)
    assert api.fit(config).code == 0
    for path, value in params_of(run).items():
        np.testing.assert_allclose(value, unpacked[path], atol=1e-6, err_msg=path)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    filled = [line["train/filled"] for line in lines if "train/filled" in line]
    assert filled and min(filled) > 0.25, "eight completions of at most 11 tokens in 8 rows of 40"
    final = result(run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "00000002")
    assert api.fit(load_saved(run), must_exist=True).result["final"] == final


@pytest.mark.parametrize("change", [ONE, "mesh={data: 2, num_devices: 2}"])
def test_packed_rows_serve_two_steps(
    two_steps: dict[str, np.ndarray], sums: Path, tmp_path: Path, change: str
) -> None:
    """A rollout of fewer rows than completions is part of the checkpoint between its steps."""
    run = tmp_path / "run"
    assert api.fit(config_of(sums, run, *SGD, *PACKED, change)).code == 0
    for path, value in params_of(run).items():
        np.testing.assert_allclose(value, two_steps[path], atol=1e-6, err_msg=path)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    filled = [line["train/filled"] for line in lines if "train/filled" in line]
    assert filled and min(filled) > 0.25, "the rows of the step, not those of the state"
    final = result(run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "00000002")
    assert api.fit(load_saved(run), must_exist=True).result["final"] == final


def test_packed_rows_hold_each_completion_once(sums: Path, tmp_path: Path) -> None:
    rows = {}
    for name, changes in {"plain": ("data.seq_len=40",), "packed": PACKED}.items():
        config = config_of(sums, tmp_path / name, ONE, *changes).config
        session = Session.open(config, report=lambda _: None)
        learner = session.learner
        assert learner is not None
        with session.train_loader() as loader, jax.set_mesh(learner.mesh):
            batch = stack([loader.row(i) for i in range(8)])
            batch.pop("id")
            state = learner.create()
            on_mesh = to_global_whole(batch, learner.mesh)
            rows[name] = jax.device_get(dict(learner.batch(state, learner.frozen, on_mesh)))
    plain, packed = rows["plain"], rows["packed"]
    assert len(plain["tokens"]) == 8 and len(packed["tokens"]) in (1, 2, 4)
    for name in ("rewards", "reward_std", "completion_tokens", "truncated"):
        np.testing.assert_array_equal(packed[name], plain[name], err_msg=name)
    texts = lambda batch: sorted(  # noqa: E731
        (
            batch["targets"][row][of].tolist(),
            batch["positions"][row][of].tolist(),
            float(np.max(np.broadcast_to(batch["advantages"][row], of.shape)[of])),
        )
        for row in range(len(batch["tokens"]))
        for segment in range(1, batch["segment_ids"][row].max() + 1)
        for of in [(batch["segment_ids"][row] == segment) & (batch["loss_weights"][row] > 0)]
    )
    assert texts(packed) == texts(plain) and len(texts(packed)) == 8


def test_ids_that_end_a_text_are_part_of_the_run(run: Path) -> None:
    check_changes(RunDir(run), load_saved(run, ["sample.max_tokens=3"]).config)
    with pytest.raises(UserError, match=r"sample.eos_ids: .*7"):
        check_changes(RunDir(run), load_saved(run, ["sample.eos_ids=[7]"]).config)


def test_unfreezing_counts_the_copies_of_records(sums: Path, tmp_path: Path) -> None:
    changes = ("optimizer.unfreeze={every_epochs: 1}", "train.steps=null", "train.epochs=1")
    twice = "objective.num_iterations=2"
    config, _ = tiny.prepared(config_of(sums, tmp_path / "run", ONE, twice, *changes).config)
    assert config.optimizer is not None and config.optimizer.unfreeze is not None
    assert config.optimizer.unfreeze.every_steps == config.train.steps


# --------------------------------------------------------------------------------------- rollouts


def test_a_rollout_is_a_function_of_weights_and_step(sums: Path, tmp_path: Path) -> None:
    config = config_of(sums, tmp_path / "run", ONE, "objective.num_iterations=2").config
    session = Session.open(config, report=lambda _: None)
    learner, compiled = session.learner, []
    assert learner is not None

    @contextmanager
    def compiling() -> Iterator[None]:
        compiled.append(1)
        yield

    def rollout(step: int, batch: int = 0) -> dict[str, np.ndarray]:
        rows = stack([loader.row(batch * 8 + i) for i in range(8)])
        rows.pop("id")
        state["step"] = jax.device_put(np.int32(step))
        on_mesh = to_global_whole(rows, learner.mesh)
        found = learner.batch(state, learner.frozen, on_mesh, compiling=compiling)
        return jax.device_get(dict(found))

    with session.train_loader() as loader, jax.set_mesh(learner.mesh):
        state = learner.create()
        first_records = [int(loader.row(i)["record"]) for i in range(8)]
        first = rollout(0)
        count = len(compiled)
        again, other, next_prompts = rollout(0), rollout(2), rollout(0, batch=1)
    assert count > 0 and len(compiled) == count, "a program is compiled once"
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
    assert (first["targets"] != other["targets"]).any()
    pieces = session.prepared.tokenizer
    records = session.prepared.splits["train"].records_of  # type: ignore[attr-defined]
    for found, number in ((first, 0), (next_prompts, 1)):
        for row in range(8):
            mask = found["loss_weights"][row].astype(bool)
            begin, size = mask.argmax(), mask.sum()
            assert mask[begin : begin + size].all() and 1 <= size <= 6
            tokens = np.append(found["tokens"][row], found["targets"][row][-1])
            record = records(loader.row(number * 8 + row)["record"])[0]
            assert pieces.decode(tokens[1 : begin + 1]) == record["prompt"]
            text = tokens[begin + 1 : begin + 1 + size].tolist()
            ended = text[-1] == pieces.eos_id
            assert found["truncated"][row] == (not ended)
            text = pieces.decode(text[:-1] if ended else text)
            assert found["rewards"][row, 0] == np.float32(low_letters(record, text))
        tokens = [tuple(row) for row in found["targets"]]
        assert len({*tokens}) == 8, "each completion of a group is drawn for itself"
        groups = found["rewards"].reshape(2, 4)
        std = groups.std(1, ddof=1, keepdims=True)
        want = (groups - groups.mean(1, keepdims=True)) / (std + 1e-4)
        np.testing.assert_allclose(found["advantages"], want.reshape(-1), atol=1e-4)
    # the training forward gives what was drawn the probability that the generator gave it
    prompts = [pieces.encode(records(n)[0]["prompt"]) for n in first_records]
    sampling = Sampling(max_tokens=6, temperature=1.0, length_penalty=0.0)
    eos, pad = pieces.eos_id, pieces.pad_id
    generator = Generator(session.program, sampling, eos_id=eos, pad_id=pad, prompt_length=11)
    seed = record_rng(config.seed, 0).randint(2**31 - 1)
    drawn = generator.with_scores(
        state["params"], [[pieces.bos_id, *prompt] for prompt in prompts], seed=seed
    )
    log_p = (first["old_log_probs"] * first["loss_weights"]).sum(1)
    np.testing.assert_allclose(log_p, [score for _, score in drawn], atol=1e-4)


def test_a_reference_is_the_start_and_is_there_again_after_a_restart(
    sums: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    changes = ("objective.beta=0.5", "train.steps=3")
    assert api.fit(config_of(sums, run, ONE, *changes)).code == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kl = [line["train/kl"] for line in lines if "train/kl" in line]
    assert kl[0] == 0 and kl[-1] > 0, "at the first step the policy is the reference"
    final = result(run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "00000003")
    assert api.fit(load_saved(run), must_exist=True).result["final"] == final


def test_rewards_rise(sums: Path, tmp_path: Path) -> None:
    rate = "optimizer={type: adam, learning_rate: 0.02}"
    changes = (rate, "train.steps=12", "train.batch_size=16", "logging.every_steps=1")
    assert api.fit(config_of(sums, tmp_path / "run", ONE, *changes)).code == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rewards = [v for line in lines if (v := json.loads(line).get("train/reward")) is not None]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.batch_size=6", "6 completions cannot be cut into groups of 4"),
        ("data.packing=whole", "data.packing: grpo needs a record a row; .*objective.packing"),
        ("data.seq_len=8", "the prompt of training record .* room for 3 beside"),
        ("objective.max_tokens=17", "leave no room for a prompt"),
        (f"objective.rewards=['{HERE}:nothing']", "nothing returned nan .*'1[+]"),
        ("model.attention.is_causal=false", "needs a model that continues its prompt"),
        ("train.embedding_noise=5", "train.embedding_noise: grpo learns from texts that are"),
    ],
)
def test_what_cannot_be_is_one_line(sums: Path, tmp_path: Path, change: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        api.fit(config_of(sums, tmp_path / "run", ONE, "train.batch_size=16", change))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------- prompts alone

ALONE = "data.task={type: prompts}"
BY_FORMAT = "data.source={type: files, files: prompts.jsonl}"


def without_answers(path: Path) -> Path:
    rows = [{"prompt": f"{a}+{b}=", "most": a + b} for a in range(5) for b in (1, 2, 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def at_most(record: dict[str, Any], text: str) -> float:
    return float(len(text) <= record["most"])


@pytest.mark.parametrize("source", ["jsonl", "files"])
def test_prompts_without_answers_are_learnt_from_and_measured_by_rewards(
    tmp_path: Path, source: str
) -> None:
    prompts = without_answers(tmp_path / "prompts.jsonl")
    run = tmp_path / "run"
    config = config_of(
        prompts,
        run,
        ONE,
        f"data.source={{type: {source}, files: {prompts}}}",
        "data.task={type: prompts, keep: [most]}",
        f"objective.rewards=['{HERE}:low_letters', '{HERE}:at_most']",
        "objective.reward_weights=[2.0, 0.5]",
        "train.steps=2",
        "eval.at_end=true",
    )
    assert api.fit(config).code == 0
    final = result(run)
    each = [final[f"eval/reward/{name}"] for name in ("low_letters", "at_most")]
    assert final["eval/reward"] == pytest.approx(2 * each[0] + each[1] / 2)
    assert final["eval/reward"] > 0 and "eval/loss" not in final


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((ALONE, "objective.rewards=[task]"), "grpo has the reward task, .* the answer column is"),
        ((ALONE, "objective={type: causal_lm}"), "causal_lm learns the answers of records, .*miss"),
        ((), "no column 'completion'; .*data.task.type=prompts"),
        (
            ("data.source={type: files, files: prompts.jsonl}",),
            "lacks completion or .*; or: prompts .*data.task.type=promp",
        ),
    ],
)
def test_answers_that_are_missing_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...], said: str
) -> None:
    prompts = without_answers(tmp_path / "prompts.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said) as error:
        api.fit(config_of(prompts, tmp_path / "run", ONE, *changes))
    assert "\n" not in str(error.value)
