"""A run that counts: its tables are sums, they grow, and a killed run ends with the same ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlm import api
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import Resolved, UserError
from jaxlm.core.measures import values_of
from jaxlm.info import describe_run
from jaxlm.run import RunConfig, load_saved
from jaxlm.training.loading import load_trained
from tests import tiny
from tests.bigrams import FIRST_ROWS


def config_of(run: Path, *changes: str) -> Resolved[RunConfig]:
    return tiny.load(
        "transformer",
        "objective={type: 'tests.bigrams:Bigrams'}",
        "optimizer=null",
        "sample.prompts=[]",
        "data.seq_len=16",
        "train.steps=8",
        "checkpoint.every_steps=2",
        "checkpoint.keep_last=9",
        "eval.every_steps=null",
        f"run_dir={run}",
        *changes,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counting") / "run"
    outcome = api.fit(config_of(folder, "mesh={data: 1, num_devices: 1}"))
    assert outcome.code == 0
    return folder


def table(run: Path, step: int | None = None) -> np.ndarray:
    return np.asarray(load_trained(str(run), step=step, report=lambda _: None)[2]["counts"])


def by_hand(run: Path, batches: int) -> np.ndarray:
    """The bigrams of the first batches, one after the other."""
    from jaxlm.training.session import Session

    rows = Session.open(load_saved(run).config, report=lambda _: None).train_loader()
    want = np.zeros((512, 264))
    for i in range(batches * 8):
        row = rows.row(i)
        np.add.at(want, (row["tokens"], row["targets"]), row["loss_weights"])
    return want


def test_tables_are_the_sums_of_all_batches_and_grow(run: Path) -> None:
    found = table(run)
    reader = CheckpointReader(run / "checkpoints")
    rows = [reader.read_metadata(s).arrays["params/counts"].shape[0] for s in (2, 8)]
    assert FIRST_ROWS < rows[0] <= rows[1] == len(found)
    want = by_hand(run, 8)
    assert found.sum() == want.sum() > 0
    np.testing.assert_array_equal(found, want)
    assert set(reader.read_metadata(8).arrays) == {"step", "bad_steps", "params/counts"}
    shown = describe_run(run)
    assert shown["num_params"] == shown["trained_params"] == found.size


def test_a_run_that_is_cut_anywhere_ends_with_the_same_tables(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    cut = tmp_path / "run"
    (cut / "result.json").unlink()
    for step in (4, 6, 8):
        shutil.rmtree(cut / "checkpoints" / f"{step:08d}")
    outcome = api.fit(load_saved(cut), must_exist=True)
    assert outcome.result["final"] == result(run)
    np.testing.assert_array_equal(table(cut), table(run))


def test_devices_count_their_rows_together(run: Path, tmp_path: Path) -> None:
    outcome = api.fit(config_of(tmp_path / "many", "mesh={data: 4, tensor: 2}"))
    assert outcome.result["final"]["param_sha256"] == result(run)["param_sha256"]


def test_it_is_evaluated_by_the_loss_of_its_objective(run: Path) -> None:
    from jaxlm.evals.run import evaluate_run

    values = values_of(evaluate_run(str(run), report=lambda _: None)[1])
    assert values["eval/loss"] == pytest.approx(result(run)["eval/loss"], rel=1e-6)
    assert values["eval/loss"] < np.log(264) - 1


def result(run: Path) -> dict[str, Any]:
    import json

    return json.loads((run / "result.json").read_text())["final"]


def test_what_has_no_gradient_takes_no_optimizer_and_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="optimizer: the objective has no gradient, it counts; set it to null"
    ):
        config_of(tmp_path / "run", "optimizer={type: adamw}")
    with pytest.raises(UserError, match="^adapter: a model that is counted has no gradient"):
        api.fit(config_of(tmp_path / "run", "adapter={type: freeze, train: [counts]}"))
