"""A run knows what it is: exchanged checkpoints, a changed config, tokenizer or data are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxlm.cli import main
from jaxlm.core.config import UserError
from jaxlm.data.tokenizers.characters import Characters
from jaxlm.run import load_saved
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import (
    IDENTITY,
    Identity,
    Record,
    check_files,
    data_change,
    kept_files,
    missing_files,
    read_record,
)
from tests import tiny

pytestmark = pytest.mark.usefixtures("shared_programs")

STEPS = 6


def write_texts(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(6):
        lines = (f"text {i} line {n} of some words\n" for n in range(40))
        (folder / f"{i}.txt").write_text("".join(lines))


def words(folder: Path, run: Path, *more: str) -> list[str]:
    source = f"{{type: text, files: '{folder}/texts/*.txt'}}"
    data = f"data={{type: text, source: {source}, seq_len: 16, validation_fraction: 0.3}}"
    quiet = ("sample.prompts=[]", "logging.tensorboard=false", "mesh.num_devices=1")
    settings = (f"train.steps={STEPS}", "checkpoint.every_steps=2", "eval.every_steps=null")
    small = ("model.num_layers=1", f"cache_dir={tiny.cache_dir()}", f"run_dir={run}")
    config = str(tiny.SMOKE / "transformer.yaml")
    return ["train", config, data, *quiet, *settings, *small, *more]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts/ and two runs of them, each with the checkpoints 4 and 6."""
    folder = tmp_path_factory.mktemp("made")
    write_texts(folder / "texts")
    jax.config.update("jax_disable_most_optimizations", True)
    assert main(words(folder, folder / "run")) == 0
    assert main(words(folder, folder / "other", "seed=2")) == 0
    jax.config.update("jax_disable_most_optimizations", False)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of the run, whose texts are again as they were when it was trained."""
    shutil.rmtree(made / "texts")
    write_texts(made / "texts")
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a verb: (exit code, what it printed)."""

    def run_verb(*arguments: Any) -> tuple[int, str]:
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out + err

    return run_verb


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# ------------------------------------------------------------------------------------- checkpoints


def exchanged(run: Path, made: Path) -> None:
    folder = run / "checkpoints"
    (folder / "00000004").rename(folder / "x")
    (folder / "00000006").rename(folder / "00000004")
    (folder / "x").rename(folder / "00000006")


def renamed(run: Path, made: Path) -> None:
    (run / "checkpoints/00000004").rename(run / "checkpoints/00000008")


def of_another_run(run: Path, made: Path) -> None:
    shutil.rmtree(run / "checkpoints/00000006")
    shutil.copytree(made / "other/checkpoints/00000006", run / "checkpoints/00000006")


@pytest.mark.parametrize(
    ("change", "says", "step"),
    [
        (exchanged, "it is step 4, so its folder must be", None),
        (renamed, "it is step 4, so its folder must be", 6),
        (of_another_run, "it is of another run", 4),
    ],
)
def test_a_checkpoint_in_a_wrong_place_is_named_and_not_used(
    run: Path, made: Path, call: Any, change: Any, says: str, step: int | None
) -> None:
    change(run, made)
    code, text = call("info", run, "--json")
    found = json.loads(text)
    assert code == 0 and found["step"] == (step or 0)
    assert any(says in problem for problem in found["problems"])
    code, text = call("generate", run, "--max-tokens", 1)
    assert says in text and code == (2 if step is None else 0)
    worst = 8 if change is renamed else 6
    code, text = call("generate", run, "--step", worst, "--max-tokens", 1)
    assert code == 2 and says in text


def test_a_newest_checkpoint_that_is_missing_is_named(run: Path, call: Any) -> None:
    shutil.rmtree(run / "checkpoints/00000006")
    code, text = call("info", run, "--json")
    found = json.loads(text)
    assert code == 0 and found["step"] == 4 and found["final"] is None
    assert any("checkpoint 6: is missing" in problem for problem in found["problems"])
    code, text = call("generate", run, "--max-tokens", 1)
    assert code == 0 and "checkpoint 6: is missing" in text
    code, text = call("resume", run)
    assert code == 0 and "checkpoint 6: is missing" in text
    assert json.loads(call("info", run, "--json")[1])["problems"] == []


def test_a_run_that_has_lost_its_checkpoints_is_not_begun_again(
    run: Path, made: Path, call: Any
) -> None:
    for lost in ("its files", "the folder"):
        shutil.rmtree(run / "checkpoints")
        if lost == "its files":
            (run / "result.json").unlink()
            (run / "checkpoints").mkdir()
        for words_of_verb in (["resume", run], words(made, run)):
            code, text = call(*words_of_verb)
            assert code == 2 and "are missing; put them back" in text and text.count("\n") == 1


# ------------------------------------------------------------------------------------ config.yaml


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("learning_rate: 0.003", "learning_rate: 0.007"),
        ("seed: 1", "seed: 3"),
        ("dropout: 0.1", "dropout: 0.3"),
        ("theta: 10000.0", "theta: 10001.0"),
        ("keep_last: 2", "keep_last: 1"),
        ("seed: 1", "seed: [1"),
    ],
)
@pytest.mark.parametrize("record", ["sound", "missing", "damaged"])
def test_a_config_that_was_changed_by_hand_is_refused(
    run: Path, old: str, new: str, record: str
) -> None:
    if record == "missing":
        (run / IDENTITY).unlink()
    elif record == "damaged":
        replace_text(run / IDENTITY, "seed: 1", "seed: 9")
    replace_text(run / "config.yaml", old, new)
    if record != "sound" and "keep_last" in new:  # a checkpoint's own copy may have another rhythm
        load_saved(run)
        return
    with pytest.raises(UserError, match="config.yaml") as error:
        load_saved(run)
    assert "put it back" in str(error.value) and "\n" not in str(error.value)
    if "[" not in new:
        assert old.partition(":")[0] in str(error.value)
    (run / "config.yaml").unlink()
    assert load_saved(run).config.seed == 1  # the run's own copy


def test_every_verb_refuses_a_changed_config(run: Path, made: Path, call: Any) -> None:
    replace_text(run / "config.yaml", "seed: 1", "seed: 3")
    verbs = [[verb, run] for verb in ("resume", "eval", "generate", "info")]
    verbs += [["export", "hf", run, "--out", run / "out"], words(made, run)]
    for verb in verbs:
        code, text = call(*verb)
        assert code == 2 and "seed was changed since the run wrote it (1 -> 3)" in text, verb


def test_a_change_on_the_way_is_kept_by_a_kill_between_its_two_writes(run: Path, call: Any) -> None:
    before = (run / "config.yaml").read_text()
    code, text = call("resume", run, "train.steps=8", "optimizer.learning_rate=0.001")
    assert code == 0, text
    want = json.loads((run / "result.json").read_text())["final"]["param_sha256"]
    for step in (8,):
        shutil.rmtree(run / f"checkpoints/{step:08d}")
    (run / "config.yaml").write_text(before)  # the record was written, config.yaml not yet
    (run / "result.json").unlink()
    code, text = call("resume", run)
    assert code == 0, text
    assert json.loads((run / "result.json").read_text())["final"]["param_sha256"] == want
    assert "learning_rate: 0.001" in (run / "config.yaml").read_text()


def test_the_record_of_another_run_is_named(run: Path, made: Path, call: Any) -> None:
    shutil.copy(made / "other" / IDENTITY, run / IDENTITY)
    for verb in ("info", "resume", "generate"):
        code, text = call(verb, run)
        assert code == 2 and "identity.json: is of another run than config.yaml" in text, verb
    (run / IDENTITY).unlink()
    assert call("info", run)[0] == 0


# ------------------------------------------------------------------------------ tokenizer and data


@pytest.mark.parametrize("name", ["data_manifest.json", "tokenizer"])
def test_a_missing_file_that_a_verb_reads_is_named(run: Path, call: Any, name: str) -> None:
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, text = call("generate", run)
    assert code == 2 and f"{name}: " in text and text.count("\n") == 1


def test_another_sound_tokenizer_is_refused_by_every_verb(run: Path, call: Any) -> None:
    shutil.rmtree(run / "tokenizer")
    other = Characters().build(lambda: iter(["text of some words\n" * 9]), "", run)
    other.save(run / "tokenizer")
    for verb in ("resume", "eval", "generate"):
        more = ["train.steps=8"] if verb == "resume" else []
        code, text = call(verb, run, *more)
        assert code == 2 and "is another tokenizer than the run was trained with" in text, verb


def test_changed_data_is_named_and_must_be_accepted(run: Path, made: Path, call: Any) -> None:
    """One changed word leaves all counts as they are; a new line changes them."""
    replace_text(made / "texts/3.txt", "some words", "same words")
    record, _ = read_record(RunDir(run))
    assert record is not None and record.identity.data is not None
    longer = ["resume", run, "train.steps=8"]
    code, text = call(*longer)
    assert code == 2 and "others (files: 3.txt)" in text and "--accept-changed-data" in text
    assert call("eval", run)[0] == 2
    with (made / "texts/3.txt").open("a") as file:
        file.write("one more line\n")
    code, text = call(*longer)
    assert code == 2 and "tokens " in text and " -> " in text
    assert call("eval", run, "--accept-changed-data")[0] == 0
    code, text = call(*longer, "--accept-changed-data")
    assert code == 0, text
    assert "3.txt" in (run / "log.txt").read_text()
    code, text = call("info", run)
    assert "accepted" in text and "3.txt" in text
    assert call("resume", run, "train.steps=9")[0] == 0  # what was accepted is the data now
    manifest = json.loads((run / "data_manifest.json").read_text())
    (earlier,) = manifest["earlier"]  # what was trained on until then is kept
    first = json.loads((made / "run/data_manifest.json").read_text())
    assert earlier["splits"] == first["splits"] and manifest["splits"] != first["splits"]
    page = (run / "report.html").read_text()
    assert "changed data accepted (--accept-changed-data): train: " in page and "3.txt" in page


def test_a_run_of_an_older_version_is_still_resumed(run: Path, call: Any) -> None:
    """Its checkpoints have no identity; the checksums are those of what is there."""
    from jaxlm.core.checksums import CHECKSUMS, checksums_text, digest_files, file_names

    (run / IDENTITY).unlink()
    for folder in (run / "checkpoints").iterdir():
        (folder / IDENTITY).unlink()
        sums = digest_files(folder, file_names(folder))
        (folder / CHECKSUMS).write_text(checksums_text(sums))
    code, text = call("resume", run, "train.steps=8")
    assert code == 0 and "kept no identity" in text
    code, text = call("generate", run, "--step", 6, "--max-tokens", 1)
    assert code == 0, text


@pytest.mark.parametrize(
    ("name", "kind", "refused"),
    [
        ("import.json", "changed", True),
        ("import.json", "missing", True),
        ("hf/config.json", "changed", True),
        ("hf/config.json", "missing", False),  # an export then writes its own, and says so
    ],
)
def test_files_that_came_with_imported_weights_are_compared(
    tmp_path: Path, name: str, kind: str, refused: bool
) -> None:
    run = RunDir(tmp_path)
    run.originals.mkdir()
    for path in (run.imported, run.originals / "config.json"):
        path.write_text('{"dtype": "float32"}')
    record = Record(
        identity=Identity.new(tokenizer=None, data=None), config="", files=kept_files(run)
    )
    check_files(run, record)
    assert not missing_files(run, record)
    if kind == "missing":
        (tmp_path / name).unlink()
    else:
        replace_text(tmp_path / name, "32", "16")
    if refused:
        with pytest.raises(UserError, match=f"{name}: .*put it back"):
            check_files(run, record)
    else:
        check_files(run, record)
        assert len(missing_files(run, record)) == 1


def test_a_split_that_is_stored_in_another_format_is_compared_by_its_files() -> None:
    old = {"sha256": "a", "files": {"r.csv": "1"}, "documents": 9, "tokens": 70}
    record = Record(identity=Identity.new(tokenizer=None, data={"train": old}), config="")
    now = {**old, "sha256": "b", "format": "records"}
    assert data_change(record, {"train": now}) is None
    for change in ({"files": {"r.csv": "2"}}, {"tokens": 71}, {"format": None}):
        assert "train: " in (data_change(record, {"train": {**now, **change}}) or "")
    assert "others (files: r.csv)" in str(
        data_change(record, {"train": {**now, "files": {"r.csv": "2"}}})
    )
