"""Runs over bags of words: they are cut, resumed, evaluated and asked like all others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import api
from jaxlm.core.config import Resolved
from jaxlm.evals.baselines.naive_bayes import Counts, grams
from jaxlm.info import describe_run
from jaxlm.run import RunConfig, load_run, load_saved
from jaxlm.training.loading import load_trained
from tests import tiny

LIKELY = {"bad": "dull slow film , not good", "good": "bright film , good , not slow"}
CONFIG = """\
seed: 1
tokenizer: {{type: words, ngrams: 2}}
data:
  type: records
  source: {{type: csv, files: {files}}}
  task: {{type: classification}}
  validation_fraction: 0.3
  seq_len: 24
model: {{type: bag_of_words}}
objective: {{type: naive_bayes}}
optimizer: null
train: {{epochs: 1, batch_size: 16}}
checkpoint: {{every_steps: 2, keep_last: 9}}
logging: {{tensorboard: false}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bow")
    rng, lines = np.random.default_rng(0), ["text,label"]
    for _ in range(120):
        label = str(rng.choice(["bad", "good"]))
        words = rng.choice(LIKELY[label].split() + ["a", "b", "c", "d"], 7)
        lines.append(f'"{" ".join(words)}",{label}')
    (made / "texts.csv").write_text("\n".join(lines) + "\n")
    (made / "config.yaml").write_text(CONFIG.format(files=made / "texts.csv"))
    return made


def config_of(folder: Path, name: str, *changes: str) -> Resolved[RunConfig]:
    own = [f"run_dir={folder / name}", f"cache_dir={tiny.cache_dir()}"]
    return load_run(folder / "config.yaml", [*own, *changes])


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    assert api.fit(config_of(folder, "run", "mesh={data: 1, num_devices: 1}")).code == 0
    return folder / "run"


def final(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())["final"]
    return {name: value for name, value in found.items() if not name.endswith("seconds")}


def test_it_answers_as_the_baseline_does(run: Path, folder: Path) -> None:
    values = final(run)
    assert values["eval/accuracy"] == values["eval/naive_bayes/accuracy"] > 0.7
    model = jaxlm.load(run)
    asked = ["not dull", "bright film"]
    found = list(model.predict([{"text": text} for text in asked]))
    rows = [line.rsplit(",", 1) for line in (folder / "texts.csv").read_text().splitlines()[1:]]
    params = load_trained(str(run), report=lambda _: None)[2]
    counted = params["task_head"]
    assert 0 < counted["texts"].sum() < len(rows)
    assert [each["label"] for each in found] == ["bad", "good"]
    assert describe_run(run)["num_params"] == sum(x.size for x in jax.tree.leaves(params))
    again = Counts(["bad", "good"], [grams(["dull slow"]), grams(["bright"])])
    assert again(grams(["dull"])) == "bad"


def test_a_run_that_is_cut_ends_with_the_same_tables(run: Path, folder: Path) -> None:
    cut = folder / "cut"
    shutil.copytree(run, cut)
    (cut / "result.json").unlink()
    for place in sorted((cut / "checkpoints").iterdir())[1:]:
        if place.name.isdigit():
            shutil.rmtree(place)
    assert api.fit(load_saved(cut), must_exist=True).code == 0
    assert final(cut) == final(run)


def test_devices_orders_and_epochs_give_the_same_tables(run: Path, folder: Path) -> None:
    changes = ("mesh={data: 4, tensor: 2}", "seed=2", "train.epochs=2.5")
    api.fit(config_of(folder, "many", *changes))
    one, many = (
        jax.device_get(load_trained(str(folder / name), report=lambda _: None)[2])
        for name in ("run", "many")
    )
    for name in ("counts", "texts"):
        np.testing.assert_array_equal(one["task_head"][name], many["task_head"][name])
    assert one["read"].sum() == many["read"].sum() == one["task_head"]["texts"].sum()


def test_logistic_regression_learns_and_resumes(folder: Path) -> None:
    changes = (
        "objective={type: classification, head: {type: logistic, l2: 1.0e-3}}",
        "optimizer={type: adam, learning_rate: 0.1, schedule: {type: constant}}",
        "train.epochs=4",
        "mesh={data: 2, num_devices: 2}",
    )
    whole = api.fit(config_of(folder, "whole", *changes)).result["final"]
    assert whole["eval/accuracy"] > 0.7 and whole["eval/l2"] > 0
    cut = folder / "whole_cut"
    shutil.copytree(folder / "whole", cut)
    (cut / "result.json").unlink()
    for place in sorted((cut / "checkpoints").iterdir())[2:]:
        if place.name.isdigit():
            shutil.rmtree(place)
    again = api.fit(load_saved(cut), must_exist=True).result["final"]
    assert again["param_sha256"] == whole["param_sha256"]
