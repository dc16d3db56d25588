"""Runs that write a target for a source: with an encoder, packed, and as one text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import jaxlm
from jaxlm import cli
from jaxlm.api.prediction import Predictor
from jaxlm.api.prediction_file import predict_file
from jaxlm.core.config import UserError
from jaxlm.core.measures import values_of
from jaxlm.evals.loss import Loss
from jaxlm.training.session import Session
from tests import tiny

QUIET = ("eval.every_steps=null", "sample.prompts=[]", "checkpoint.every_steps=1000")
PLAIN = ("logging.tensorboard=false", "mesh={data: 1, num_devices: 1}", "train.ledger=false")
KINDS = {
    "encoder": ("t5", "{type: translation, encoder: true}", "{type: seq2seq}", "whole"),
    "one_text": ("transformer", "{type: translation, separator: '='}", "{type: causal_lm}", "null"),
}


def settings_of(folder: Path, kind: str, **changes: str) -> list[str]:
    _, task, objective, packing = KINDS[kind]
    values = {"packing": packing, **changes}
    return [
        f"data={{type: records, source: {{type: files, files: {folder}/pairs.jsonl}}}}",
        "data.seq_len=26",
        f"data.task={task}",
        f"objective={objective}",
        f"data.packing={values['packing']}",
    ]


@pytest.fixture(scope="module", params=KINDS)
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> jaxlm.Run:
    folder = tmp_path_factory.mktemp(request.param)
    pairs = [(f"say {a}{b}", f"{b} {a}{a}") for a in "abcd" for b in "efgh"] * 4
    write(folder / "pairs.jsonl", [{"source": a, "target": b} for a, b in pairs])
    settings = [
        *settings_of(folder, request.param),
        "data.validation_fraction=0.2",
        "eval.baseline=true",
        "evaluators={beams: {type: task, num_beams: 3, baseline: false}}",
        "train.steps=250",
        "model.dropout=0",
        "optimizer.learning_rate=0.005",
        f"run_dir={folder}/run",
    ]
    return jaxlm.train(tiny.load(KINDS[request.param][0], *QUIET, *PLAIN, *settings).config)


def records_of(run: jaxlm.Run, count: int = 64) -> list[dict[str, str]]:
    lines = (run.path.parent / "pairs.jsonl").read_text().splitlines()[:count]
    return [json.loads(line) for line in lines]


def write(path: Path, records: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_what_was_learnt_is_written(run: jaxlm.Run) -> None:
    """Sources of training get their targets: a prompt is read as its training row was."""
    records = records_of(run, 16)
    found = [answer["text"] for answer in run.predict([r["source"] for r in records])]
    right = [text == record["target"] for text, record in zip(found, records, strict=True)]
    assert sum(right) >= 8, found  # of 16: one that guesses has one, seeds have 10 to 16
    assert run.generate([r["source"] for r in records], temperature=0.0, max_tokens=26) == found


def test_predictions_by_beams_are_continued_in_their_order(run: jaxlm.Run, tmp_path: Path) -> None:
    given, out = tmp_path / "new.jsonl", tmp_path / "out.jsonl"
    sources = [record["source"] for record in records_of(run)] + ["say"]
    write(given, [{"source": source} for source in sources])
    how: dict[str, Any] = {"batch_size": 2, "num_beams": 3, "report": lambda _: None}
    assert predict_file(run, str(given), out, **how) == 65
    whole = out.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert lines == Predictor(run, 2, num_beams=3)(sources[:32]) + lines[32:]
    assert all(line["score"] < 0 for line in lines)
    greedy = run.predict(sources)
    same = [a["text"] == b["text"] for a, b in zip(lines, greedy, strict=True)]
    better = [a["score"] >= b["score"] - 1e-4 for a, b in zip(lines, greedy, strict=True)]
    assert sum(same) > 40 and all(better)  # of what both have written: log p / length
    out.write_bytes(whole[: len(whole) // 2])
    predict_file(run, str(given), out, **how)
    assert out.read_bytes() == whole
    with pytest.raises(UserError, match="record 1: the source 'aaa.* has .* there is room for"):
        run.predict(["a", "a" * 40])
    write(given, [{"source": "a"}, {"source": "a" * 40}])
    with pytest.raises(UserError, match="new.jsonl:2: the source 'aaa"):
        predict_file(run, str(given), tmp_path / "new_out.jsonl", report=lambda _: None)


def test_an_evaluation_scores_texts_beside_guesses(run: jaxlm.Run, capsys: Any) -> None:
    path = run.path.parent / "pairs.jsonl"
    assert cli.main(["eval", str(run.path), "--data", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    records, task = records_of(run), run.config.data.task  # type: ignore[union-attr]
    for name, how in (("", {}), ("beams/", {"num_beams": 3})):
        said = [task.said(answer) for answer in Predictor(run, 8, **how)(records)]
        for measure in task.score(said, records):
            assert found["final"][f"eval/{name}{measure.name}"] == pytest.approx(measure.value)
            assert found["notes"][f"eval/{name}{measure.name}"] == measure.note != ""
    last = run.metrics[-1]
    assert {"final/copy/bleu", "final/nearest/chrf", "final/loss", "final/beams/bleu"} <= {*last}
    result = json.loads((run.path / "result.json").read_text())
    assert "tok:13a" in result["notes"]["eval/bleu"]
    assert "tok:13a" in (run.path / "report.html").read_text()


def test_packed_pairs_have_the_loss_of_single_ones(run: jaxlm.Run) -> None:
    kind, losses, rows = run.path.parent.name.rstrip("0"), [], []
    for packing in ("whole", "null"):
        own = settings_of(run.path.parent, kind, packing=packing)
        config, data = tiny.prepared(tiny.load(KINDS[kind][0], *QUIET, *PLAIN, *own).config)
        measuring = Loss().prepare(Session(config, data, tiny.program(config)))
        assert measuring is not None
        losses.append(values_of(measuring.after(run.params, [None])[0])["loss"])
        rows.append(data.splits["validation"].counts["rows"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and rows[0] < rows[1]
