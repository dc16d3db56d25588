"""`Run.predict`: the classes of texts from Python, on eight devices."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxlm
from jaxlm.api.prediction import Predictor
from jaxlm.api.prediction_file import predict_file
from jaxlm.core.config import UserError
from jaxlm.data.records import RecordData
from jaxlm.data.sources.synthetic import Synthetic
from jaxlm.objectives.counting import Counting
from tests import tiny
from tests.tasks.toy_tasks import Continuation

QUIET = ("train.steps=2", "eval.at_end=false", "eval.every_steps=null", "sample.prompts=[]")
MESH = "mesh={data: 2, fsdp: 2, tensor: 2}"
TEXTS = ["film good", "a", "the king is dead " * 9, "no", "x" * 31, "good", "film"]
TEXTS += [f"text {n}" for n in range(4)]  # 11 in all: batches of 4, 4 and 3
CLASSES = ("bad", "fine", "good")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> jaxlm.Run:
    """A classifier of a table whose columns are `review` and `stars`."""
    folder = tmp_path_factory.mktemp("predict")
    rows = [f"{name} film {n},{name}" for n in range(12) for name in CLASSES]
    (folder / "reviews.csv").write_text("review,stars\n" + "\n".join(rows) + "\n")
    source = f"{{type: csv, files: {folder}/reviews.csv, text_column: review, label_column: stars}}"
    settings = (
        f"data={{type: records, source: {source}, seq_len: 24}}",
        "data.task={type: classification}",
        "objective={type: classification}",
        "optimizer.learning_rate=0.03",
        "eval.batch_size=4",
        "logging.tensorboard=false",
    )
    return jaxlm.train(
        tiny.load("transformer", *QUIET, *settings, MESH, f"run_dir={folder}/run").config
    )


def alone(run: jaxlm.Run, text: str) -> dict[str, float]:
    """{class: probability} of one text without padding, on one device."""
    tokenizer = run.tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    if len(ids) > 24:
        ids = [*ids[:23], tokenizer.eos_id]
    params = jax.device_get(run.params)
    with jax.set_mesh(tiny.ONE.build()):
        found = scores_of(run.program.graphdef, params, jnp.array([ids]))
    scores = np.asarray(found[0], np.float64)
    exps = np.exp(scores - scores.max())
    return dict(zip(CLASSES, exps / exps.sum(), strict=True))


@partial(jax.jit, static_argnums=0)
def scores_of(graphdef: Any, params: Any, tokens: jax.Array) -> jax.Array:
    model, segments = nnx.merge(graphdef, params), jnp.ones_like(tokens)
    row = {"positions": jnp.arange(tokens.shape[1])[None], "segment_ids": segments}
    return model.task_head(model, model(tokens, **row).hidden, segments)


def test_predictions_are_those_of_each_text_alone(run: jaxlm.Run) -> None:
    """In order, in batches of 4 of which the last is not full, over eight devices."""
    assert dict(run.program.mesh.shape)["data"] == 2 and run.program.mesh.size == 8
    found = run.predict(TEXTS)
    assert len(found) == len(TEXTS) == 11
    for text, each in zip(TEXTS, found, strict=True):
        want = alone(run, text)
        assert list(each["scores"]) == list(CLASSES)
        assert each["scores"] == pytest.approx(want, abs=1e-5), text
        assert sum(each["scores"].values()) == pytest.approx(1)
        assert each["score"] == each["scores"][each["label"]] == max(each["scores"].values())
    assert len({round(each["score"], 5) for each in found}) > 8, "the texts differ"
    json.dumps(found)


def test_a_batch_has_no_effect_on_a_record(run: jaxlm.Run) -> None:
    together = run.predict(TEXTS)
    for few in (TEXTS[:1], TEXTS[3:8], TEXTS[::-1]):
        for text, each in zip(few, run.predict(few), strict=True):
            assert each["scores"] == pytest.approx(together[TEXTS.index(text)]["scores"], abs=1e-6)


@pytest.mark.parametrize("column", ["review", "text"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "list"])
def test_a_file_and_records_are_read_as_texts_are(
    run: jaxlm.Run, tmp_path: Path, kind: str, column: str
) -> None:
    """The column is that of the run's files, or the task's own; an answer is not read."""
    records = [{"id": n, column: text, "stars": "unknown"} for n, text in enumerate(TEXTS)]
    given: Any = records
    if kind == "csv":
        given = tmp_path / "new.csv"
        lines = [f"{r['id']},{r[column]},unknown" for r in records]
        given.write_text("\n".join([f"id,{column},stars", *lines]))
    elif kind == "jsonl":
        given = str(tmp_path / "new.jsonl")
        Path(given).write_text("\n".join(map(json.dumps, records)))
    assert run.predict(given) == run.predict(TEXTS)


def test_records_of_a_format_are_predicted_for(run: jaxlm.Run) -> None:
    """The columns are those of a format, not of the run's table; the labels are not read."""
    records = [{"sentence": text, "label": 7} for text in TEXTS]
    assert run.predict(records) == run.predict(TEXTS)


def test_the_column_of_a_file_is_not_guessed(run: jaxlm.Run, tmp_path: Path) -> None:
    """`note` looks more like text than the task's column does."""
    (tmp_path / "new.csv").write_text("note,text\ngood film,1\nbad film,2\n")
    assert run.predict(tmp_path / "new.csv") == run.predict(["1", "2"])


def test_each_line_of_a_text_is_a_record(run: jaxlm.Run, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("good film\n\nbad film\n")
    lines: list[str] = []
    predict_file(run, str(tmp_path / "new.txt"), tmp_path / "out.jsonl", report=lines.append)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert found == run.predict(["good film", "bad film"])
    said = f"{tmp_path}/new.txt: each line is a record; write JSON lines for longer texts"
    assert lines == [f"{tmp_path}/new.txt: text, utf-8", said]


def test_a_complete_file_is_not_predicted_again(run: jaxlm.Run, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("good film\nbad film\n")
    lines: list[str] = []
    given, out = str(tmp_path / "new.txt"), tmp_path / "out.jsonl"
    for _ in range(2):
        assert predict_file(run, given, out, report=lines.append) == 2
    assert lines[-1] == f"{out}: is complete"
    first, second = out.read_text().splitlines()
    out.write_text(f"{first}\n")  # and one that is not, is
    assert predict_file(run, given, out, report=lines.append) == 2
    assert lines[-1] == f"{out}: continues after 0 lines"
    assert out.read_text().splitlines() == [first, second]


def test_settings_name_the_columns_of_a_file(run: jaxlm.Run, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("opinion\ngood film\n")
    own = jaxlm.load(run.path, overrides=["data.source.text_column=opinion"])
    given, out = str(tmp_path / "new.csv"), tmp_path / "out.jsonl"
    predict_file(own, given, out)
    assert [json.loads(out.read_text())] == run.predict(["good film"])
    other = jaxlm.load(run.path, overrides=[*own.overrides, "data.seq_len=20"])
    with pytest.raises(UserError, match="predictions of another settings"):
        predict_file(other, given, out)


def test_files_of_other_formats_and_folders_are_predicted_for(
    run: jaxlm.Run, tmp_path: Path
) -> None:
    """As the same texts in a list are; a setting says what an unknown table's columns are."""
    for name, text in (("pos/1.txt", "good film"), ("neg/1.txt", "bad film")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (tmp_path / "new.txt").write_text("__label__bad bad film\n__label__good good film\n")
    (tmp_path / "new.json").write_text('[{"review": "bad film"}, {"review": "good film"}]')
    (tmp_path / "new.csv").write_text("frobnicate,blub\nbad film,1\ngood film,2\n")
    with pytest.raises(UserError, match="no format fits") as caught:
        run.predict(tmp_path / "new.csv")
    advice = re.search(r"as (data\.source=\{.*\}) \(the", str(caught.value))
    assert advice is not None
    set_columns = (advice[1].replace("COLUMN", "frobnicate"),)
    cases: dict[str, tuple[str, tuple[str, ...]]] = {
        "*/*.txt": ("folders (text, label)", ()),
        "new.txt": ("fasttext (__label__NAME, text)", ()),
        "new.json": ("classification (review)", ()),
        "new.csv": ("classification (frobnicate)", set_columns),
    }
    for number, (given, (format_name, settings)) in enumerate(cases.items()):
        own, lines = jaxlm.load(run.path, overrides=settings), list[str]()
        path, out = f"{tmp_path}/{given}", tmp_path / f"{number}.jsonl"
        assert predict_file(own, path, out, report=lines.append) == 2
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert found == run.predict(["bad film", "good film"])
        assert lines[0] == f"{path}: {format_name}, utf-8"
    (tmp_path / "neg/1.txt").write_text("worse film")
    with pytest.raises(UserError, match="has predictions of another input"):
        predict_file(run, f"{tmp_path}/*/*.txt", tmp_path / "0.jsonl")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "records: is empty; give at least one"),
        ({"review": "good"}, "records: is one record; give a list"),
        (["good", {"reviw": "fine"}], "record 1: no column 'review'; did you mean reviw?"),
        (["good", 3], "record 1: has the type int; give a dict of text"),
        (["good", " "], "record 1: column 'text' is blank"),
        ([{"review": 3}], "record 0: column 'text' holds a int, not text"),
        (["\ud800"], "record 0: half a surrogate pair"),
        ("absent.csv", "absent.csv: no such file"),
    ],
)
def test_mistakes_are_one_line(run: jaxlm.Run, given: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        run.predict(given)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,revew\n1,good\n2,bad\n", "new.csv: no column 'review'; did you mean revew?"),
        ("id,review\n1,good\n2,\n", "new.csv: 1 of its rows cannot be used (blank); remove them"),
    ],
)
def test_mistakes_in_files_are_one_line(
    run: jaxlm.Run, tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "new.csv").write_text(content)
    with pytest.raises(UserError) as caught:
        run.predict(tmp_path / "new.csv")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_runs_that_predict_nothing_for_records() -> None:
    """Known from the config alone."""
    text = tiny.load("transformer").config
    task = RecordData(source=Synthetic(), task=Continuation())
    for data, said in (
        (
            text.data,
            "runs/x: its data is running text, so it predicts nothing for records; load a run of "
            "data.type records, or write text with `jaxlm generate`",
        ),
        (None, "runs/x: was imported without data and without a head for a task; fine-tune it"),
        (task, "Continuation does not say which columns a record without its answer has"),
    ):
        run: Any = SimpleNamespace(path="runs/x", config=text.replace(data=data))
        with pytest.raises(UserError, match=said):
            Predictor(run)


@dataclass(frozen=True, kw_only=True)
class Counts(Counting):
    """Predicts nothing."""


def test_an_objective_that_predicts_nothing() -> None:
    with pytest.raises(UserError, match="Counts predicts nothing for records; use one with a head"):
        Counts().predict(None, {})


def test_a_task_gives_what_is_predicted_as_plain_values() -> None:
    arrays = {"log_probs": np.array([0.0, -0.5], np.float32), "value": np.float32(2)}
    assert Continuation().prediction(arrays) == {"log_probs": [0.0, -0.5], "value": 2.0}


def test_all_sizes_of_lists_are_one_program(
    run: jaxlm.Run, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = jaxlm.load(run.path)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for count in (1, 4, 11):
            assert fresh.predict(TEXTS[:count]) == run.predict(TEXTS[:count])
    said = [line for line in caplog.messages if line.startswith("Compiling jit(predict_step)")]
    assert len(said) == 1, caplog.messages


def test_records_have_the_columns_of_the_runs_files(tmp_path: Path) -> None:
    """A format makes `document` the task's `source`, in a list as in a file."""
    rows = [{"document": f"film {n}", "summary": "film"} for n in range(12)]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"{{type: records, source: {{type: files, files: {file}}}, seq_len: 32}}"
    settings = (f"data={data}", "data.task={type: summarisation}", f"run_dir={tmp_path}/run")
    run = jaxlm.train(tiny.load("transformer", *QUIET, *settings).config)
    asked = [{"document": row["document"]} for row in rows]
    found = run.predict(asked)
    assert (
        found == run.predict(str(file)) == run.predict([{"source": d["document"]} for d in asked])
    )
    with pytest.raises(UserError, match=r"^records: has the columns x: no format fits"):
        run.predict([{"x": "film"}])
