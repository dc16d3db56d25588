"""GloVe's gradients, its steps against GloVe's code in plain numpy, and runs that are resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxlm
from jaxlm import cli
from jaxlm import mesh as meshes
from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.core.config_yaml import read_yaml_text
from jaxlm.core.tree import flatten
from jaxlm.models.glove import GloveConfig
from jaxlm.models.vectors import VectorsConfig
from jaxlm.objectives.glove import Glove
from jaxlm.optim.adagrad import Adagrad
from jaxlm.run import RunConfig
from jaxlm.training.build import learner_of

V, D = 9, 4
CONFIG = """
seed: 1
tokenizer: {type: words}
data:
  type: cooccurrences
  source: {type: text, files: "*.txt"}
  row_cells: 16
  window: 5
  validation_fraction: 0.1
model: {type: glove, hidden_size: 6}
objective: {type: glove}
optimizer: {type: adagrad}
train: {steps: 24, batch_size: 4}
checkpoint: {every_steps: 8}
logging: {tensorboard: false}
mesh: {data: 1, num_devices: 1}
"""


def cells(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    counts = rng.choice([0.25, 1.5, 30, 99, 100, 250], n).astype(np.float32)
    rows, columns = rng.integers(0, V, (2, n)).astype(np.int32)
    return {"rows": rows, "columns": columns, "counts": counts, "segment_ids": np.ones(n, np.int32)}


def config_of(*words: str) -> RunConfig:
    layer = read_yaml_text(CONFIG, Path("config.yaml"))
    layer.merge(configs.read_overrides(["run_dir=unused", *words]))
    return configs.parse(RunConfig, layer.values, layer.marks)


def learner(batch: int, *words: str) -> Any:
    sizes = [f"model.hidden_size={D}", f"model.vocab_size={V}", f"train.batch_size={batch}"]
    config = config_of(*sizes, *words)
    return learner_of(config, config.mesh.build())


def reference(params: dict[str, np.ndarray], squares: Any, cell: Any, x_max: float = 100) -> float:
    """One step of GloVe's code (glove.c) for one cell, in double precision and in place."""
    i, j, x = int(cell["rows"]), int(cell["columns"]), float(cell["counts"])
    w, c = params["words"], params["contexts"]
    error = w[i] @ c[j] + params["word_bias"][i] + params["context_bias"][j] - np.log(x)
    f = error if x > x_max else (x / x_max) ** 0.75 * error
    steps = {
        ("words", i): np.clip(f * c[j], -100, 100) * 0.05,
        ("contexts", j): np.clip(f * w[i], -100, 100) * 0.05,
        ("word_bias", i): f,
        ("context_bias", j): f,
    }
    for (name, row), step in steps.items():
        params[name][row] -= step / np.sqrt(squares[name][row])
        squares[name][row] += step**2
    return 0.5 * f * error


def test_row_gradients_are_those_of_the_loss() -> None:
    """The closed form against automatic differentiation of the whole loss."""
    rng = np.random.default_rng(0)
    module = GloveConfig(hidden_size=D, vocab_size=V).build(V, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.3, x.shape), nnx.to_pure_dict(state))
    batch = {name: x.reshape(3, 8) for name, x in cells(rng, 24).items()}
    batch["counts"][0, :3] = 0  # padding
    objective = Glove()

    def loss(params: Any) -> Any:
        return objective.loss(nnx.merge(graph, params), batch, key=None, cache=None).loss_sum

    out, changes = objective.row_gradients(nnx.merge(graph, params), batch)
    assert float(out.loss_sum) == pytest.approx(float(loss(params)), rel=1e-6)
    assert float(out.weight) == 21
    wanted = flatten(jax.grad(loss)(params))
    assert {c.path for c in changes} == wanted.keys()
    for change in changes:
        dense = jnp.zeros_like(wanted[change.path]).at[change.rows].add(change.gradient)
        np.testing.assert_allclose(dense, wanted[change.path], rtol=1e-5, atol=1e-6)


def test_a_run_of_single_cells_is_glove_s_own() -> None:
    rng = np.random.default_rng(1)
    every, found = cells(rng, 200), learner(1)
    every["counts"][::7] = 400
    state = found.create()
    tables = {n: np.array(x, np.float64) for n, x in flatten(state["params"]).items()}
    squares = {n: np.ones_like(x) for n, x in tables.items()}
    step = jax.jit(found.step)
    losses = []
    with jax.set_mesh(found.mesh):
        for k in range(200):
            one = {n: x[k : k + 1, None] for n, x in every.items()}
            state, metrics = step(state, {}, one)
            losses.append(float(metrics["loss"][0]))
            wanted = reference(tables, squares, {n: x[k] for n, x in every.items()})
            assert losses[-1] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert np.mean(losses[-50:]) < 0.5 * np.mean(losses[:50])
    for name, value in flatten(state["params"]).items():
        np.testing.assert_allclose(value, tables[name], rtol=1e-6, atol=1e-6)
    for name, value in flatten(state["opt_state"]).items():
        np.testing.assert_allclose(value, squares[name], rtol=2e-6, atol=1e-6)


def test_cells_of_one_batch_step_together_each_as_the_last() -> None:
    rng = np.random.default_rng(2)
    batch, found = {n: x[:, None] for n, x in cells(rng, 40).items()}, learner(40)
    state = found.create()
    squares = {n: np.full(x.shape, 1.0) for n, x in flatten(state["params"]).items()}
    with jax.set_mesh(found.mesh):
        after, _ = jax.jit(found.step)(state, {}, batch)
        mixed = rng.permutation(40)
        again, _ = jax.jit(found.step)(state, {}, {n: x[mixed] for n, x in batch.items()})
    model = nnx.merge(found.program.graphdef, state["params"])
    _, changes = Glove().row_gradients(model, batch)
    for change in changes:
        s = np.clip(np.array(change.gradient, np.float64), -100, 100) * (change.rate or 0.05)
        table, square = np.array(flatten(state["params"])[change.path]), squares[change.path]
        for k, row in enumerate(change.rows):
            others = sum(s[m] ** 2 for m in range(40) if change.rows[m] == row and m != k)
            table[row] -= s[k] / np.sqrt(square[row] + others)
        np.testing.assert_allclose(
            flatten(after["params"])[change.path], table, rtol=2e-6, atol=2e-6
        )
        np.testing.assert_allclose(
            flatten(again["params"])[change.path], table, rtol=2e-6, atol=2e-6
        )


def test_devices_do_not_change_the_result() -> None:
    batch = {n: x[:, None] for n, x in cells(np.random.default_rng(6), 16).items()}
    after = []
    for mesh in ("{data: 1, num_devices: 1}", "{data: 8, num_devices: 8}"):
        found = learner(16, f"mesh={mesh}")
        with jax.set_mesh(found.mesh):
            state, step = found.create(), jax.jit(found.step)
            rows = jax.device_put(batch, meshes.batch_sharding(found.mesh, 2))
            for _ in range(3):
                state, _ = step(state, {}, rows)
        after.append(flatten(state["params"]))
    for name, value in after[0].items():
        np.testing.assert_array_equal(value, after[1][name])


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    found = learner(4)
    state = found.create()
    batch = {n: x[:, None] for n, x in cells(np.random.default_rng(3), 4).items()}
    batch["counts"][2] = np.inf
    with jax.set_mesh(found.mesh):
        after, metrics = jax.jit(found.step)(state, {}, batch)
    assert int(after["bad_steps"]) == 1 == int(metrics["bad_steps"][0])
    for part in ("params", "opt_state"):
        for name, value in flatten(after[part]).items():
            np.testing.assert_array_equal(value, flatten(state[part])[name])


def test_adagrad_of_a_whole_table_is_the_closed_form() -> None:
    rng = np.random.default_rng(4)
    tx = Adagrad(learning_rate=0.1, clip_value=2.0, initial=0.5).direction(None)
    state, total = tx.init({"a": jnp.zeros(5)}), np.full(5, 0.5)
    for _ in range(4):
        gradient = rng.normal(0, 3, 5).astype(np.float32)
        found, state = tx.update({"a": jnp.array(gradient)}, state)
        clipped = np.clip(gradient, -2, 2)
        np.testing.assert_allclose(found["a"], clipped / np.sqrt(total), rtol=1e-5)
        total += (0.1 * clipped) ** 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer={type: sgd}", "set it to that"),
        ("optimizer.clip_norm=1.0", "optimizer.clip_norm: would change all rows"),
        ("optimizer.averaging={measure: loss, patience: 1}", "optimizer.averaging: .* to null"),
        ("optimizer.ema_decay=0.9", "optimizer.ema_decay: would change all rows"),
        ("train.accumulation=2", "train.accumulation"),
        ("adapter={type: freeze}", "adapter: "),
        ("train.embedding_noise=1.0", "embeds no tokens"),
    ],
)
def test_what_does_not_step_by_rows_is_one_line(setting: str, message: str) -> None:
    config = config_of("model.vocab_size=9", setting)
    with pytest.raises(UserError, match=message):
        learner_of(config, config.mesh.build())


def test_another_model_is_one_line() -> None:
    with pytest.raises(UserError, match="set model.type to glove"):
        Glove().check_model(VectorsConfig())


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    for i in range(3):
        kinds = rng.integers(0, 2, 120)
        words = [f"{'xy'[k]}{rng.integers(0, 6)}" for k in np.repeat(kinds, 6)]
        (tmp_path / f"{i}.txt").write_text(" ".join(words))
    return tmp_path


def train(folder: Path, name: str, *words: str) -> Path:
    run, config = folder / name, folder / "config.yaml"
    config.write_text(CONFIG.replace("*.txt", f"{folder}/*.txt"))
    given = [f"run_dir={run}", f"cache_dir={folder / 'cache'}", *words]
    assert cli.main(["train", str(config), *given]) == 0
    return run


def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())["final"]


def test_a_run_that_is_stopped_and_resumed_has_the_same_weights(texts: Path) -> None:
    whole = train(texts, "whole")
    cut = texts / "cut"
    shutil.copytree(whole, cut)
    for step in (16, 24):  # as after a kill in step 15
        (path,) = [p for p in (cut / "checkpoints").iterdir() if p.name.lstrip("0") == str(step)]
        shutil.rmtree(path)
    (cut / "result.json").unlink()
    assert cli.main(["resume", str(cut)]) == 0
    assert result(cut)["param_sha256"] == result(whole)["param_sha256"]
    assert (
        result(cut)["eval/loss"] == result(whole)["eval/loss"]
        if "eval/loss" in result(whole)
        else True
    )


def test_vectors_of_a_run_are_the_sums_and_answer_the_verbs(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(texts, "run", "train.steps=400", "checkpoint.every_steps=400")
    opened = jaxlm.load(run)
    table, params = opened.vectors, opened.params
    assert len(table) == 12 and table.size == 6
    i = opened.tokenizer.id_of("x3")
    np.testing.assert_array_equal(
        table["x3"], np.array(params["words"][i]) + np.array(params["contexts"][i])
    )
    near = [w for w, _ in table.nearest("x3", 4)]
    assert sum(w[0] == "x" for w in near) >= 3, near
    for words in (["info", run], ["eval", run], ["neighbours", run, "x3"], ["report", run]):
        capsys.readouterr()
        assert cli.main([str(w) for w in words]) == 0, words
        assert capsys.readouterr().out.strip()
    assert cli.main(["serve", str(run)]) == 2  # it neither predicts nor writes
    assert "or use `jaxlm neighbours`" in capsys.readouterr().err
