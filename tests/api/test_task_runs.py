"""Runs of tasks from their records to a file of predictions: tags, answers, several labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import jaxlm
from jaxlm import cli
from jaxlm.api.prediction_file import predict_file
from jaxlm.core.config import UserError
from tests import tiny

QUIET = ("train.steps=2", "eval.every_steps=null", "sample.prompts=[]", "eval.batch_size=2")
PLAIN = ("logging.tensorboard=false", "mesh={data: 1, num_devices: 1}")
WORDS = ("Ana", "Bo", "Chen", "Dee", "Eva")


def tags(n: int) -> dict[str, Any]:
    return {
        "tokens": [WORDS[n % 5], "met", WORDS[n % 3], f"at{n}"],
        "tags": ["B-P", "O", "B-P", "O"],
    }


def question(n: int) -> dict[str, Any]:
    context = f"{n}: {WORDS[n % 5]} spoke in room {n}. " + "Then all left. " * (n % 3)
    answers = {"text": [WORDS[n % 5]], "answer_start": [context.index(WORDS[n % 5])]}
    return {"question": "Who spoke?", "context": context, "answers": answers}


def topics(n: int) -> dict[str, Any]:
    return {"text": f"{WORDS[n % 5]} {n}", "text_b": "x", "label": ["a", "b"][: 1 + n % 2]}


TASKS: dict[str, Any] = {
    "tagging": (tags, "{type: tagging}", "{type: tagging}"),
    "question_answering": (question, "{type: question_answering, doc_stride: 8}",
                           "{type: question_answering}"),
    "multi_label": (topics, "{type: multi_label, text_b: text_b}", "{type: multi_label}"),
}  # fmt: skip


@pytest.fixture(scope="module", params=TASKS)
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> jaxlm.Run:
    folder = tmp_path_factory.mktemp(request.param)
    make, task, objective = TASKS[request.param]
    (folder / "records.jsonl").write_text("".join(json.dumps(make(n)) + "\n" for n in range(20)))
    source = f"{{type: jsonl, files: {folder}/records.jsonl}}"
    settings = (
        f"data={{type: records, source: {source}, seq_len: 40, task: {task}}}",
        f"objective={objective}",
        f"run_dir={folder}/run",
        "eval.baseline=true",
    )
    return jaxlm.train(tiny.load("transformer", *QUIET, *PLAIN, *settings).config)


def records_of(run: jaxlm.Run, count: int = 20) -> list[dict[str, Any]]:
    make = TASKS[run.path.parent.name.rstrip("0")][0]
    return [make(n) for n in range(count)]


def test_predictions_are_continued_in_their_order(run: jaxlm.Run, tmp_path: Path) -> None:
    """A file that was torn in a line ends as one that was written without a pause."""
    made = records_of(run, 70)
    asked = [{k: v for k, v in r.items() if k not in ("tags", "answers", "label")} for r in made]
    given, out = tmp_path / "new.jsonl", tmp_path / "out.jsonl"
    given.write_text("".join(json.dumps(record) + "\n" for record in asked))
    assert predict_file(run, str(given), out, report=lambda _: None) == 70
    whole = out.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert len(lines) == 70 and lines[:3] == run.predict(asked[:3])
    for kept in (whole[:-5], whole[: whole.index(b"\n") + 9], b"", b"".join(
        line + b"\n" for line in whole.splitlines()[:33]
    ), whole):  # fmt: skip
        out.write_bytes(kept)
        predict_file(run, str(given), out, report=lambda _: None)
        assert out.read_bytes() == whole

    given.write_text(json.dumps(asked[0]) + "\n")
    with pytest.raises(UserError, match="has predictions of another input; remove it"):
        predict_file(run, str(given), out)
    with pytest.raises(UserError, match="is the input; name another file"):
        predict_file(run, str(given), given)
    assert given.read_text() == json.dumps(asked[0]) + "\n"
    given.write_text('{"txt": "a"}\n')
    with pytest.raises(UserError, match="did you mean txt|nearest is tokens") as error:
        predict_file(run, str(given), tmp_path / "other.jsonl")
    assert "\n" not in str(error.value) and not (tmp_path / "other.jsonl").exists()


def test_answers_are_of_the_records_themselves(run: jaxlm.Run) -> None:
    for record, answer in zip(records_of(run), run.predict(records_of(run)), strict=True):
        if "tokens" in record:
            assert len(answer["tags"]) == len(answer["scores"]) == 4
        elif "context" in record:
            start, text = answer["start"], answer["answer"]
            assert text and record["context"][start : start + len(text)] == text
        else:
            assert [name for name, p in answer["scores"].items() if p > 0.5] == answer["labels"]


def test_an_evaluation_has_the_measures_of_the_task(run: jaxlm.Run, capsys: Any) -> None:
    """They are those of `score` on what the run predicts for the same records."""
    path = run.path.parent / "records.jsonl"
    assert cli.main(["eval", str(run.path), "--data", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["final"]
    task = run.config.data.task  # type: ignore[union-attr]
    predicted = [task.said(answer) for answer in run.predict(path)]
    kept = [task.expand(record)[0] for record in records_of(run)]
    for measure in task.score(predicted, kept):
        assert found[f"eval/{measure.name}"] == pytest.approx(measure.value), measure.name
    assert found["eval/loss"] > 0
    words = ["eval", str(run.path), "evaluators={x: {type: task, metrics: [bleu]}}"]
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "evaluators.x.metrics: task " in lines[-1] and "not have bleu; choose from " in lines[-1]
    assert cli.main([*words[:2], "evaluators={x: {type: task, length_penalty: 0.5}}"]) == 2
    assert "are predicted, not written; leave num_beams, length_penalty" in capsys.readouterr().err
    last = run.metrics[-1]
    main = next(value for key, value in last.items() if key.startswith("final/baseline/"))
    page = (run.path / "report.html").read_text().lower()
    told = "the model does not beat its baseline" in page or "as good as its baseline" in page
    assert told or main == 0  # a baseline that gets nothing right is not compared
