"""A run that learns word vectors: words with the same uses are near, and a cut changes nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlm
from jaxlm import api
from jaxlm.cli import main
from jaxlm.core.config import Resolved, UserError
from jaxlm.info import describe_run
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.run import RunConfig, load_run, load_saved
from tests import tiny

CONFIG = """\
seed: 1
tokenizer: {{type: words, min_count: 2}}
data:
  type: text
  source: {{type: text, files: {files}, document_separator: "\\n"}}
  seq_len: 32
  validation_fraction: 0.1
model: {{type: word_vectors, hidden_size: 8}}
objective: {{type: skip_gram, window: 2, sample: 0, block: 4, pool: 8}}
optimizer: {{type: sgd, learning_rate: 0.04, clip_norm: null, schedule: {{type: linear}}}}
train: {{epochs: 10, batch_size: 8}}
eval: {{every_steps: 50}}
checkpoint: {{every_steps: 50, keep_last: 9}}
logging: {{tensorboard: false}}
mesh: {{data: 1, num_devices: 1}}
"""
ANIMALS, PLACES = ["cat", "dog", "fox", "owl"], ["wood", "field", "barn", "yard"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences with an animal and a place, each chosen freely."""
    made = tmp_path_factory.mktemp("vectors")
    rng = np.random.RandomState(0)
    lines = [
        f"the {rng.choice(ANIMALS)} runs and sleeps in a {rng.choice(PLACES)} of stone"
        for _ in range(600)
    ]
    (made / "text.txt").write_text("\n".join(lines) + "\n")
    (made / "config.yaml").write_text(CONFIG.format(files=made / "text.txt"))
    return made


def config_of(folder: Path, name: str, *changes: str) -> Resolved[RunConfig]:
    own = [f"run_dir={folder / name}", f"cache_dir={tiny.cache_dir()}"]
    return load_run(folder / "config.yaml", [*own, *changes])


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    assert api.fit(config_of(folder, "run")).code == 0
    return folder / "run"


def test_the_command_trains_vectors_by_one_thread(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are many small operations, which more threads make slower; others get all cores."""
    monkeypatch.setenv("NPROC", "")  # so that it is put back
    monkeypatch.delenv("NPROC")
    own = [f"run_dir={folder / 'one'}", f"cache_dir={tiny.cache_dir()}", "train.epochs=1"]
    assert main(["train", str(folder / "config.yaml"), *own]) == 0
    assert os.environ["NPROC"] == "1"
    assert CausalLM.cpu_threads is None


def final(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())["final"]
    return {name: value for name, value in found.items() if not name.endswith("seconds")}


def test_words_with_the_same_uses_are_near(run: Path) -> None:
    vectors = jaxlm.load(run).vectors
    for group in (ANIMALS, PLACES):
        for word in group:
            assert {w for w, _ in vectors.nearest(word, 3)} == set(group) - {word}
    text = (run.parent / "text.txt").read_text().split()
    assert vectors.counts is not None
    count = int(vectors.counts[vectors.index["cat"]])
    assert 0.8 * text.count("cat") < count <= text.count("cat")  # of the training split
    assert final(run)["eval/loss"] < 2.7 < 6 * np.log(2)  # which it begins with
    assert describe_run(run)["num_params"] == 2 * 8 * (len(vectors) + 2)


def test_evaluation_is_that_of_the_end_of_training(run: Path) -> None:
    found = jaxlm.load(run).evaluate()
    assert found["eval/loss"] == pytest.approx(final(run)["eval/loss"], rel=1e-6)


@pytest.mark.parametrize("kept", [1, 2])
def test_a_run_that_is_cut_anywhere_ends_with_the_same_tables(
    run: Path, tmp_path: Path, kept: int
) -> None:
    cut = tmp_path / "run"
    shutil.copytree(run, cut)
    (cut / "result.json").unlink()
    numbered = sorted(f for f in (cut / "checkpoints").iterdir() if f.name.isdigit())
    assert len(numbered) > 3
    for checkpoint in numbered[kept:]:
        shutil.rmtree(checkpoint)
    assert api.fit(load_saved(cut), must_exist=True).result["final"] == final(run)


def test_eight_devices_end_with_the_same_loss(run: Path, folder: Path) -> None:
    outcome = api.fit(config_of(folder, "many", "mesh={data: 8, num_devices: 8}"))
    assert outcome.result["final"]["eval/loss"] == pytest.approx(final(run)["eval/loss"], abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        ("objective.type=cbow", "optimizer.learning_rate=0.15"),
        ("objective.softmax=hierarchical",),
        ("model.subwords={buckets: 97}",),
    ],
    ids=["cbow", "paths", "subwords"],
)
def test_other_models_of_vectors_learn_them_too(
    run: Path, folder: Path, changes: tuple[str, ...]
) -> None:
    name = changes[0].split("=")[0].replace(".", "_")
    assert api.fit(config_of(folder, name, *changes)).code == 0
    vectors = jaxlm.load(folder / name).vectors
    assert {w for w, _ in vectors.nearest("cat", 3)} == set(ANIMALS) - {"cat"}
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    losses = [row["eval/loss"] for row in map(json.loads, lines) if "eval/loss" in row]
    assert losses[-1] < losses[0]


def test_a_word_that_the_vocabulary_lacks_has_the_mean_of_its_ngrams(folder: Path) -> None:
    config = config_of(folder, "spelled", "model.subwords={buckets: 97}", "train.epochs=0.5")
    assert api.fit(config).code == 0
    model = jaxlm.load(folder / "spelled")
    rows, first = np.asarray(model.params["input"]), model.config.model.vocab_size
    grams = ["<ca", "cat", "atz", "tz>", "<cat", "catz", "atz>", "<catz", "catz>", "<catz>"]
    own = [rows[first + b] for g in grams for b in _bucket(g, 97)]
    for word in ("catz", "Catz"):  # the tokenizer writes all words in lower case
        np.testing.assert_allclose(model.vectors[word], np.mean(own, 0), atol=1e-7)
    np.testing.assert_allclose(model.vectors["Cat"], model.vectors["cat"], atol=1e-7)
    assert model.vectors.nearest("catz", 2)[0][0] in model.vectors.words
    cosine = model.vectors.similarity("catz", "cat")
    assert -1 < cosine == pytest.approx(dict(model.vectors.nearest("catz", 99))["cat"], abs=1e-5)
    assert "catz" not in model.vectors
    with pytest.raises(UserError, match="'' has no vector"):
        model.vectors.similarity("", "cat")


def _bucket(gram: str, buckets: int) -> list[int]:
    value = 2166136261  # FNV-1a of ASCII
    for byte in gram.encode():
        value = (value ^ byte) * 16777619 % 2**32
    return [value % buckets]


def test_a_model_of_words_writes_no_text(run: Path) -> None:
    with pytest.raises(UserError, match="learns vectors of words and writes no text"):
        jaxlm.load(run).generate("the ")


@pytest.mark.parametrize(
    "setting",
    [
        "train.accumulation=2",
        "train.embedding_noise=1.0",
        "optimizer.momentum=0.9",
        "optimizer.clip_norm=1.0",
        "optimizer.averaging={measure: loss}",
    ],
)
def test_a_setting_that_has_no_effect_on_rows_is_one_line(run: Path, setting: str) -> None:
    with pytest.raises(UserError, match=setting.partition("=")[0]):
        api.fit(config_of(run.parent, "parts", setting))
