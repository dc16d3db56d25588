"""`jaxlm curve`: what pre-training is worth, from runs on the same records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import jaxlm
from jaxlm import cli
from jaxlm.api.curve import check_labels, curve, variant
from jaxlm.api.run_inputs import inputs
from jaxlm.core.config import UserError
from jaxlm.core.files import write_sealed
from jaxlm.data.records import RecordData
from jaxlm.evals.split_records import records_of
from jaxlm.report.curve import table, worth
from jaxlm.run import load_run
from jaxlm.runs.folder import RunDir
from jaxlm.training.session import prepare_data
from tests import tiny

WORDS = ("good", "fine", "bad", "dull")


@pytest.fixture(scope="module")
def made(shared_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to start from, and a config of a task with 40 records."""
    folder = tmp_path_factory.mktemp("curve")
    rows = [f"{WORDS[n % 4]} film {n},{'pn'[n % 4 // 2]}" for n in range(40)]
    (folder / "r.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    quiet = ("train.steps=2", "sample.prompts=[]", "logging.tensorboard=false")
    jaxlm.train(tiny.load("transformer", *quiet, f"run_dir={folder}/base").config)
    (folder / "task.yaml").write_text(
        f"cache_dir: {tiny.cache_dir()}\n"
        "data:\n"
        "  type: records\n"
        f"  source: {{type: csv, files: {folder}/r.csv}}\n"
        "  task: {type: classification}\n"
        "  seq_len: 24\n"
        "  validation_fraction: 0.3\n"
        "objective: {type: classification}\n"
        "optimizer: {type: adamw, learning_rate: 0.01}\n"
        "train: {steps: 1, batch_size: 4}\n"
        "logging: {tensorboard: false}\n"
        "mesh: {data: 1, num_devices: 1}\n"
    )
    return folder


def test_a_curve_is_measured_and_continued(made: Path, capsys: Any) -> None:
    words = ["curve", str(made / "task.yaml"), "--from", str(made / "base"), "--labels", "4,8"]
    words += ["--seeds", "1", "--out", str(made / "out")]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert "accuracy, mean and standard deviation over 1 seeds" in shown.out
    assert len([line for line in shown.err.splitlines() if "labels, seed 0" in line]) == 4
    result = json.loads((made / "out/curve.json").read_text())
    assert [row["labels"] for row in result["rows"]] == [4, 8]
    assert all(0 < row["p"] <= 1 for row in result["rows"])
    page = (made / "out/curve.html").read_text()
    assert "Accuracy by labels" in page and 'data-unit="labels"' in page
    run = jaxlm.load(made / "out/pretrained-4-seed0")
    assert run.config.init.from_ == str(made / "base")
    assert jaxlm.load(made / "out/scratch-4-seed0").config.init.from_ is None
    assert not (run.path / "checkpoints").exists()

    # what has its answers is not trained again: its folder may go
    (made / "out/scratch-8-seed0/config.yaml").write_text("damaged")
    (made / "out/curve.json").unlink()
    assert cli.main(words) == 0
    assert json.loads((made / "out/curve.json").read_text()) == result

    words[words.index("4,8")] = "99"
    assert cli.main(words) == 2
    assert "--labels: 99 but the training split has" in capsys.readouterr().err
    assert not (made / "out/scratch-99-seed0").exists()  # it is found before a run is trained

    # answers of other data are not taken: those runs are trained again
    words[words.index("99")] = "4"
    rows = (made / "r.csv").read_text()
    (made / "r.csv").write_text(rows.replace("film", "movie"))
    before = (made / "out/answers/scratch-4-seed0.json").read_bytes()
    assert cli.main(words) == 0
    err = capsys.readouterr().err
    assert "out/scratch-4-seed0: is of another config or other data, so it is trained again" in err
    assert (made / "out/answers/scratch-4-seed0.json").read_bytes() != before
    assert (made / "out/scratch-4-seed0/result.json").is_file()
    (made / "out/answers/scratch-4-seed0.json").write_text("{}")
    assert cli.main(words) == 2  # one that is damaged has no checkpoints to be asked again
    assert f"remove it and {made}/out/scratch-4-seed0, and that run" in capsys.readouterr().err


def test_both_starts_have_the_same_records(made: Path) -> None:
    base = load_run(made / "task.yaml", [f"init.from={made}/base"])
    seen: dict[Any, list[str]] = {}
    for start in ("scratch", "pretrained"):
        for count, seed in ((4, 0), (8, 0), (8, 1)):
            run = variant(base, start, count, seed, made / "x").config
            assert run.seed == seed and (run.init.from_ is None) == (start == "scratch")
            assert isinstance(run.data, RecordData)
            prepared = run.data.prepare(run.tokenizer, Path(tiny.cache_dir()), report=len)  # type: ignore[arg-type]
            split: Any = prepared.splits["train"]
            seen[start, count, seed] = [r["text"] for r in split.rows.records]
            assert len(seen[start, count, seed]) == count
            held: Any = prepared.splits["validation"]
            seen.setdefault("held", [r["text"] for r in held.rows.records])
            assert [r["text"] for r in held.rows.records] == seen["held"]
    assert seen["scratch", 8, 0] == seen["pretrained", 8, 0] != seen["scratch", 8, 1]
    assert {*seen["scratch", 4, 0]} < {*seen["scratch", 8, 0]}  # fewer are some of more
    assert not {*seen["held"]} & {*seen["scratch", 8, 0]}


def test_an_imported_start_counts_by_its_files_wherever_they_are(
    made: Path, tmp_path: Path
) -> None:
    """An upgrade of jaxlm imports a Hugging Face folder again, to another folder of the cache."""

    def key(name: str, sha256: str) -> str:
        folder = tmp_path / name
        shutil.copytree(made / "base", folder)
        write_sealed(RunDir(folder).imported, {"files": {"model.safetensors": sha256}})
        config = load_run(made / "task.yaml", [f"init.from={folder}"]).config
        assert str(folder) in repr(config.tokenizer)  # its path moves with the start
        return inputs(config, "data")

    first = key("gpt2-0f3a", "12")
    assert key("gpt2-5c77", "12") == first != key("gpt2-81bd", "34")


def test_from_scratch_all_layers_are_trained(made: Path) -> None:
    rates = ["optimizer.layer_decay=0.9", "optimizer.unfreeze={every_epochs: 1}"]
    base = load_run(made / "task.yaml", [f"init.from={made}/base", *rates])
    scratch, pretrained = (
        variant(base, start, 4, 0, made / "x").config for start in ("scratch", "pretrained")
    )
    assert scratch.optimizer is not None and pretrained.optimizer is not None
    assert (scratch.optimizer.layer_decay, scratch.optimizer.unfreeze) == (1, None)
    assert pretrained.optimizer == base.config.optimizer


def test_labels_are_records_where_several_share_a_row(made: Path) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["X", "Y"]} for _ in range(20)]
    for n, row in enumerate(rows):
        row["tokens"][0] = f"w{n}"
    (made / "tags.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (made / "task.yaml").read_text().replace("{type: classification}", "{type: tagging}")
    text = text.replace("r.csv", "tags.jsonl").replace("type: csv", "type: jsonl")
    (made / "packed.yaml").write_text(text.replace("seq_len: 24", "seq_len: 24\n  packing: whole"))
    prepared = prepare_data(
        load_run(made / "packed.yaml", [f"init.from={made}/base"]).config, lambda _: None
    )
    records = len(records_of(prepared, "train"))
    assert prepared.splits["train"].counts["rows"] < records
    check_labels(prepared, records)
    with pytest.raises(UserError, match=f"the training split has {records} records"):
        check_labels(prepared, records + 1)


def test_a_curve_needs_a_run_and_records(made: Path, capsys: Any) -> None:
    assert cli.main(["curve", str(tiny.SMOKE / "transformer.yaml")]) == 2
    assert "names no run to start from" in capsys.readouterr().err
    assert cli.main(["curve", "x.yaml", "--labels", "1,b"]) == 2
    assert "is not a list of numbers; write one, such as 100,300,1000" in capsys.readouterr().err
    with pytest.raises(UserError, match="a curve needs data.type: records"):
        curve(tiny.SMOKE / "transformer.yaml", [f"init.from={made}/base"])


def test_the_table_says_what_a_start_is_worth() -> None:
    def row(labels: int, needed: float | None) -> dict[str, Any]:
        arms = {a: {"values": [0.5], "mean": 0.5, "std": 0.1} for a in ("scratch", "pretrained")}
        return {"labels": labels, "needed": needed, "p": 0.01, "draws": 9, **arms}

    rows = [row(100, 740.4), row(300, None), row(400, 400.0), row(1000, None)]
    measure = {"name": "accuracy", "format": ".1%"}
    result = {"rows": rows, "seeds": 2, "measure": measure}
    assert [worth(result, each) for each in rows] == [
        "640 labels",
        "more than 700 labels",
        "no labels",
        "more labels than were tried",
    ]
    assert "50.0% ± 10.0%" in table(result) and table(result).count("\n") == 5
