"""An embedding that starts from word vectors: whole or in part, trained or frozen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxlm
from jaxlm import cli
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.run import InitConfig
from jaxlm.training.build import program_of
from jaxlm.vectors.files import read_vectors, write_vectors
from jaxlm.vectors.table import WordVectors

pytestmark = pytest.mark.usefixtures("shared_programs")
KNOWN = ["a", "b", "c", "absent"]
CONFIG = """
seed: 1
tokenizer: {type: words}
data: {type: text, source: {type: text, files: "FOLDER/*.txt"}, seq_len: 8, validation_fraction: 0}
model: MODEL
objective: {type: causal_lm}
optimizer: {type: sgd, learning_rate: 0.1}
train: {steps: 4, batch_size: 4}
checkpoint: {every_steps: 2}
logging: {tensorboard: false}
eval: {at_end: false, baseline: false}
mesh: {data: 1, num_devices: 1}
init: {vectors: "FOLDER/vectors.vec"}
"""
RNN = "{type: rnn, cell: lstm, hidden_size: 5, num_layers: 1, tie_embeddings: false}"
TRANSFORMER = "{type: transformer, hidden_size: 8, num_layers: 1, attention: {num_heads: 2}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start")
    rng = np.random.default_rng(0)
    text = " ".join(rng.choice(["A", "b", "c", "d", "e"], 300))
    (out / "a.txt").write_text(text)
    for size in (5, 8):
        vectors = rng.normal(0, 1, (len(KNOWN), size)).astype(np.float32)
        write_vectors(WordVectors(KNOWN, vectors), out / f"{size}.vec", "word2vec")
    return out


def train(folder: Path, name: str, model: str, *words: str, code: int = 0) -> Path:
    size = 5 if model == RNN else 8
    config = folder / f"{name}.yaml"
    text = CONFIG.replace("MODEL", model).replace("vectors.vec", f"{size}.vec")
    config.write_text(text.replace("FOLDER", str(folder)))
    run = folder / name
    assert cli.main(["train", str(config), f"run_dir={run}", *words]) == code
    return run


def table_of(run: Path, step: int | None = None) -> dict[str, np.ndarray]:
    opened = jaxlm.load(run, step=step)
    rows = np.array(opened.params["embed"]["table"])
    return {word: rows[opened.tokenizer.id_of(word)] for word in "abcde"}


def drawn(run: Path) -> np.ndarray:
    config = jaxlm.load(run).config
    return np.array(program_of(config, config.mesh.build()).draw()["embed"]["table"])


@pytest.mark.parametrize("model", [RNN, TRANSFORMER])
def test_words_with_a_vector_start_from_it(model: str, folder: Path) -> None:
    name = "start_" + model[7:10]
    run = train(folder, name, model, "optimizer.learning_rate=1.0e-30", "train.steps=1")
    found, plain = table_of(run), drawn(run)
    wanted = read_vectors(folder / ("5.vec" if model == RNN else "8.vec"))
    ids = jaxlm.load(run).tokenizer
    for word in "abc":
        np.testing.assert_array_equal(found[word], wanted[word])
    for word in "de":
        np.testing.assert_array_equal(found[word], plain[ids.id_of(word)])
    assert "3 of 5 words (60.0%) have a vector" in (run / "log.txt").read_text()


def test_the_vectors_of_a_run_are_a_start_as_well(folder: Path) -> None:
    source = folder / "source"
    assert cli.main(["import", "vectors", f"{folder}/5.vec", "--out", str(source)]) == 0
    words = ["optimizer.learning_rate=1.0e-30", "train.steps=1", f"init.vectors={source}"]
    found = table_of(train(folder, "of_run", RNN, *words))
    wanted = read_vectors(folder / "5.vec")
    for word in "abc":
        np.testing.assert_array_equal(found[word], wanted[word])


def test_a_trained_embedding_moves_and_a_frozen_one_is_kept_once(folder: Path) -> None:
    moved, kept = (
        train(folder, name, RNN, f"init.frozen={str(name == 'kept').lower()}")
        for name in ("moved", "kept")
    )
    start = table_of(kept)
    assert all((table_of(moved)[w] != start[w]).any() for w in "abcde")
    for step in (2, 4):  # the frozen one is that of the start in every checkpoint
        later = table_of(kept, step)
        assert all((later[w] == start[w]).all() for w in "abcde")
        paths = arrays(kept, step)
        assert not any("embed/table" in path for path in paths), "neither it nor moments"
        assert any("embed/table" in path for path in arrays(moved, step))
    identity = json.loads((kept / "identity.json").read_text())
    assert identity["identity"]["frozen"]["base"]["vectors"].endswith("5.vec")


def arrays(run: Path, step: int) -> list[str]:
    reader = CheckpointReader(run / "checkpoints", report=print)
    return list(reader.read_metadata(step).arrays)


def test_a_frozen_run_resumes_to_the_same_weights(folder: Path) -> None:
    whole = train(folder, "whole", RNN, "init.frozen=true")
    cut = folder / "cut"
    shutil.copytree(whole, cut)
    (path,) = [p for p in (cut / "checkpoints").iterdir() if p.name.lstrip("0") == "4"]
    shutil.rmtree(path)
    (cut / "result.json").unlink()
    assert cli.main(["resume", str(cut)]) == 0
    assert hashes(cut) == hashes(whole)


def hashes(run: Path) -> Any:
    return json.loads((run / "result.json").read_text())["final"]["param_sha256"]


def test_other_vectors_than_those_of_the_run_are_found(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = train(folder, "changed", RNN, "init.frozen=true")
    again = tmp_path / "again"
    shutil.copytree(run, again)
    table = WordVectors(KNOWN, np.ones((4, 5), np.float32))
    write_vectors(table, tmp_path / "other.vec", "word2vec")
    shutil.rmtree(next(p for p in (again / "checkpoints").iterdir() if p.name.lstrip("0") == "4"))
    (again / "result.json").unlink()
    assert cli.main(["resume", str(again), f"init.vectors={tmp_path / 'other.vec'}"]) == 2
    error = capsys.readouterr().err
    assert "error: init.vectors: the base of checkpoint" in error and "but that of " in error
    assert "give the file of those vectors by init.vectors=FILE" in error


def test_a_base_with_vectors_needs_them_to_resume(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = train(folder, "adapted", RNN, "adapter={type: freeze, train: [bias]}")
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(next(p for p in (again / "checkpoints").iterdir() if p.name.lstrip("0") == "4"))
    (again / "result.json").unlink()
    capsys.readouterr()
    assert cli.main(["resume", str(again), "init.vectors=null"]) == 2
    error = capsys.readouterr().err.strip()
    assert "error: init.vectors: the base of checkpoint" in error
    assert error.endswith("give the file of those vectors by init.vectors=FILE")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.hidden_size=6"], "5 dimensions and the embedding 6; set model.embedding_size"),
        (["init.vectors=nowhere.txt"], "nowhere.txt: there is no such file"),
        (["init.vectors=null", "init.frozen=true"], "there are no vectors to freeze"),
        (["tokenizer={type: bytes}", "init.vectors=FOLDER/none.vec"], "none of the tokenizer's"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_vectors(
        WordVectors(["zebra"], np.ones((1, 5), np.float32)), folder / "none.vec", "word2vec"
    )
    given = [word.replace("FOLDER", str(folder)) for word in words]
    capsys.readouterr()
    train(folder, "mistake", RNN, *given, code=2)
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_a_run_without_vectors_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(folder, "plain", RNN, "init.vectors=null", "train.steps=1")
    capsys.readouterr()
    train(folder, "of_plain", RNN, f"init.vectors={run}", code=2)
    error = capsys.readouterr().err
    assert "model.type rnn has no vectors of words; name another run" in error
    assert cli.main(["neighbours", str(run), "a"]) == 2
    assert "model.type rnn has no vectors of words" in capsys.readouterr().err


def test_vectors_and_another_run_exclude_each_other() -> None:
    with pytest.raises(UserError, match="leave one of the two out"):
        configs.parse(InitConfig, {"vectors": "a.txt", "from": "runs/a"})
