"""Runs that count first and descend then, and averaged embeddings: cut, resumed, evaluated, asked,
reported, as all others.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from jaxlm import api
from jaxlm.cli import main
from jaxlm.run import load_run, load_saved
from jaxlm.training.counting import warn_of_few_steps
from jaxlm.training.loading import load_trained
from tests import tiny

LIKELY = {"bad": "dull slow 差 , not good", "good": "bright film 好 , not slow <b>"}
COLUMNS = {"classification": ("text",), "pair": ("text", "text_b")}
CONFIG = """\
seed: 1
tokenizer: {{type: words}}
data:
  type: records
  source: {{type: csv, files: {files}}}
  task: {{type: {task}}}
  validation_fraction: 0.3
  seq_len: 32
optimizer: {{type: adam, learning_rate: 0.1, ema_decay: 0.5, schedule: {{type: linear}}}}
train: {{epochs: 5, batch_size: 16}}
checkpoint: {{every_steps: 3, keep_last: 99}}
logging: {{tensorboard: false}}
"""
# name: (task, model, objective); nbsvm over tf-idf has two passes that count
RUNS = {
    "nbsvm": (
        "classification",
        "{type: bag_of_words, sublinear: true, idf: true, norm: l2}",
        "{type: counted_first, head: {type: nbsvm}}",
    ),
    "fasttext": (
        "pair",
        "{type: bag_of_words, ngrams: 2, buckets: 100}",
        "{type: classification, head: {type: averaged}}",
    ),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and `texts.csv` with its records beside it."""
    task, model, objective = RUNS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    rng, lines = np.random.default_rng(0), [",".join([*COLUMNS[task], "label"])]
    for _ in range(120):
        label = str(rng.choice(["bad", "good"]))
        # the second text of a pair alone says the class
        sure = rng.choice(LIKELY[label].split() + ["a", "b"], 7)
        texts = [rng.permutation([*LIKELY["bad"].split(), "bright", "film", "好"]), sure]
        lines.append(",".join([*(f'"{" ".join(t)}"' for t in texts[-len(COLUMNS[task]) :]), label]))
    (folder / "texts.csv").write_text("\n".join(lines) + "\n")
    (folder / "config.yaml").write_text(CONFIG.format(files=folder / "texts.csv", task=task))
    settings = [f"model={model}", f"objective={objective}", "mesh={data: 2, num_devices: 2}"]
    places = [f"run_dir={folder / 'run'}", f"cache_dir={tiny.cache_dir()}"]
    assert api.fit(load_run(folder / "config.yaml", [*settings, *places])).code == 0
    return folder / "run"


def test_it_learns_and_a_run_that_is_cut_ends_the_same(run: Path) -> None:
    final = json.loads((run / "result.json").read_text())["final"]
    assert final["eval/accuracy"] > 0.7
    cut = run.parent / "cut"
    shutil.copytree(run, cut)
    (cut / "result.json").unlink()
    for place in (cut / "checkpoints").iterdir():  # the cut is in the first pass, which counts
        if place.name.isdigit() and int(place.name) > 3:
            shutil.rmtree(place)
    again = api.fit(load_saved(cut), must_exist=True).result["final"]
    assert again["param_sha256"] == final["param_sha256"]
    params = jax.device_get(load_trained(str(run), report=lambda _: None)[2])
    records = len((run.parent / "texts.csv").read_text().splitlines()) - 1
    if "read" in params:  # two passes over each training record, and no more
        read, texts = params["read"], params["texts"].sum()
        assert set(read) <= {0, 2} and (read > 0).sum() == texts < records
        assert params["task_head"]["texts"].sum() == texts
        assert params["frequencies"].max() <= texts


def test_the_verbs_work(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(run)
    assert main(["info", folder]) == 0
    told = capsys.readouterr().out
    assert "strongest good" in told and "好" in told
    assert main(["eval", folder]) == 0
    assert "accuracy" in capsys.readouterr().out
    asked = run.parent / "asked.csv"
    head, *_ = (run.parent / "texts.csv").read_text().splitlines()
    columns = head.split(",")[:-1]
    rows = [["film dull"] * (len(columns) - 1) + [text] for text in ("dull 差", "bright film 好")]
    asked.write_text("\n".join([",".join(columns), *map(",".join, rows)]) + "\n")
    out = run.parent / "labels.jsonl"
    assert main(["predict", folder, "--input", str(asked), "--output", str(out)]) == 0
    labels = [json.loads(line)["label"] for line in out.read_text().splitlines()]
    assert labels == ["bad", "good"]
    (run / "report.html").unlink()
    assert main(["report", folder]) == 0
    page = (run / "report.html").read_text()
    assert "Strongest words" in page and "好" in page and "<td>&lt;</td>" in page
    second = len(columns) > 1
    assert ("好 (text 2)" in page) is second


@pytest.mark.parametrize(
    ("steps", "descends", "warns"),
    [(7, True, True), (8, True, False), (7, False, False), (6, False, True)],
)
def test_a_run_that_ends_before_its_passes_says_so(
    steps: int, descends: bool, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Two passes over 14 records are 7 batches of 4."""
    config: Any = SimpleNamespace(train=SimpleNamespace(batch_size=4, steps=steps), seed=0)
    prepared: Any = SimpleNamespace(rows=lambda *_, **__: SimpleNamespace(rows_per_epoch=14))
    with caplog.at_level("WARNING", logger="jaxlm"):
        warn_of_few_steps(config, prepared, 2, descends=descends)
    assert ("set train.epochs to" in caplog.text) is warns
