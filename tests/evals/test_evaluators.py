"""Several evaluators in a run: each has its split, its rhythm and its keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxlm import api
from jaxlm.cli import main
from jaxlm.core.callback import Hook
from jaxlm.core.config import UserError, field
from jaxlm.core.evaluator import Evaluator
from jaxlm.core.measures import Measure, values_of
from jaxlm.evals.evaluators import evaluators_of
from jaxlm.evals.task import TaskMeasures
from jaxlm.objectives.masked_lm import MaskedLM
from jaxlm.runs.folder import RunDir
from jaxlm.runs.measures import read_displays
from jaxlm.runs.trackers import read_metrics
from jaxlm.tasks.chat import Chat
from jaxlm.tasks.classification import Classification
from jaxlm.training.session import Session
from tests import tiny


def part(documents: int, seed: int) -> str:
    source = f"{{type: synthetic, num_documents: {documents}, seed: {seed}}}"
    return f"{{type: text, source: {source}, seq_len: 32, validation_fraction: 0.3}}"


WEB, BOOKS = f"{{weight: 2, data: {part(30, 1)}}}", f"{{data: {part(12, 2)}}}"
MIXTURE = f"data={{type: mixture, parts: {{web: {WEB}, books: {BOOKS}}}}}"
QUIET = (
    "sample.prompts=[]",
    "logging.tensorboard=false",
    "mesh.num_devices=1",
    "checkpoint.every_steps=null",
)


@dataclass(frozen=True, kw_only=True)
class Largest(Evaluator):
    """The largest weight of a model."""

    scale: float = field(1.0, "factor of the value", gt=0)

    def measure(self, session: Any, params: Any, max_batches: int | None) -> list[Measure]:
        import jax

        value = max(float(abs(x).max()) for x in jax.tree.leaves(params))
        return [Measure("weight", value * self.scale, better="lower", show="headline")]


class Started(Hook):
    """The keys that were measured before the first step, since its own start."""

    def on_start(self, run: Any) -> None:
        self.keys: list[str] = []

    def on_measures(self, run: Any, step: int, measures: Sequence[Measure]) -> None:
        self.keys += [m.name for m in measures if step == 0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluators") / "run"
    evaluators = (
        "evaluators={books: {split: validation/books, every_steps: 2}, "
        f"largest: {{type: '{__name__}:Largest', every_steps: 3, scale: 2.0}}, "
        f"often: {{type: '{__name__}:Largest', every_steps: 5, at_end: false}}}}"
    )
    settings = ("eval.every_steps=4", "eval.max_batches=2", "eval.batch_size=2", "train.steps=6")
    settings += ("eval.at_start=true",)
    resolved = tiny.load("transformer", *QUIET, *settings, evaluators, f"run_dir={path}")
    mixed = tiny.load("transformer", *QUIET, *settings, evaluators, MIXTURE, f"run_dir={path}")
    assert resolved.config.evaluators == mixed.config.evaluators
    started = Started()
    assert api.fit(mixed, hooks=[started]).code == 0
    assert "start/loss" in started.keys, "told after each hook's on_start"
    return path


def keyed(run: Path, key: str) -> list[int]:
    return [line["step"] for line in read_metrics(run / "metrics.jsonl") if key in line]


def test_each_evaluator_has_its_rhythm(run: Path) -> None:
    assert keyed(run, "eval/loss") == [4, 6] and keyed(run, "final/loss") == [6]
    assert keyed(run, "eval/books/loss") == [2, 4, 6]
    assert keyed(run, "start/loss") == [0] and not keyed(run, "start/largest/weight")
    assert keyed(run, "eval/largest/weight") == [3, 6]
    assert keyed(run, "final/largest/weight") == [6]
    assert keyed(run, "eval/often/weight") == [5] and not keyed(run, "final/often/weight")


def test_the_start_is_the_model_before_its_first_step(run: Path) -> None:
    resolved = tiny.load("transformer", *QUIET, "eval.batch_size=2", MIXTURE)
    session = Session.open(resolved.config, report=lambda _: None)
    (evaluator, *_) = evaluators_of(session)
    params = tiny.params_of(session.program)
    (found,) = evaluator.measuring.after(params, [None])
    line = next(x for x in read_metrics(run / "metrics.jsonl") if "start/loss" in x)
    assert line["start/loss"] == pytest.approx(values_of(found)["loss"], rel=1e-5)


def test_the_parts_of_a_mixture_are_measured(run: Path) -> None:
    assert keyed(run, "eval/web/loss") == [4, 6] and keyed(run, "final/web/loss") == [6]
    final = api.load(run).evaluate()
    line = next(x for x in read_metrics(run / "metrics.jsonl") if "final/loss" in x)
    for key in ("loss", "web/loss", "books/loss", "web/perplexity"):
        assert line[f"final/{key}"] == pytest.approx(final[f"eval/{key}"], rel=1e-6)
    assert min(final["eval/web/loss"], final["eval/books/loss"]) < final["eval/loss"]
    assert max(final["eval/web/loss"], final["eval/books/loss"]) > final["eval/loss"]


def test_jaxlm_eval_measures_each_evaluator_on_its_split(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = next(x for x in read_metrics(run / "metrics.jsonl") if "final/loss" in x)
    own = "evaluators.own={split: validation/books, max_batches: 1}"
    assert main(["eval", str(run), own]) == 0
    figures = dict(row.split() for row in capsys.readouterr().out.splitlines() if "eval/" in row)
    for key, wanted in (("loss", "loss"), ("own/loss", "books/loss"), ("largest/weight",) * 2):
        assert float(figures[f"eval/{key}"]) == pytest.approx(line[f"final/{wanted}"], abs=1e-4)

    (tmp_path / "other.txt").write_text("a text of other words\n" * 20)
    assert main(["eval", str(run), own, "--json", "--data", str(tmp_path / "other.txt")]) == 0
    final = json.loads(capsys.readouterr().out)["final"]
    assert final["eval/largest/weight"] == line["final/largest/weight"]
    assert "eval/loss" in final and "eval/own/loss" not in final  # its split is not in the file


def test_each_part_of_a_mixture_has_the_measures_of_its_own_task(tmp_path: Path) -> None:
    """Their columns have other names; the mean squared error is the objective's loss. What an
    evaluator of a part's name measures, no other does under the same key.
    """
    parts = []
    for name, text, number in (("films", "text", "score"), ("goods", "title", "price")):
        rows = [{text: f"{name} {n}", number: n % 5 / 4} for n in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = f"{{type: jsonl, files: {tmp_path / name}.jsonl}}"
        task = f"{{type: regression, text: {text}, label: {number}}}"
        rest = "seq_len: 16, validation_fraction: 0.4"
        parts.append(f"{name}: {{data: {{type: records, source: {source}, task: {task}, {rest}}}}}")
    settings = (
        f"data={{type: mixture, parts: {{{', '.join(parts)}}}}}",
        "objective={type: regression}",
        "evaluators={own: {type: task, split: validation/goods, baseline: false}, "
        "films: {type: task, split: validation/films, baseline: false}, "
        "goods: {split: validation/goods}}",
        "model.num_layers=1",
        "eval.batch_size=4",
        "sample.prompts=[]",
    )
    config, prepared = tiny.prepared(tiny.load("transformer", *settings).config)
    session = Session(config, prepared, tiny.program(config))
    evaluators = evaluators_of(session)
    params = tiny.params_of(session.program)
    measures = [each.measuring.after(params, [None])[0] for each in evaluators]
    values, own, films, goods = map(values_of, measures)
    assert values["films/loss"] == pytest.approx(films["mse"], rel=1e-5)
    assert values["goods/mse"] == pytest.approx(goods["loss"], rel=1e-5)
    for name, value in own.items():
        assert values[f"goods/{name}"] == pytest.approx(value, rel=1e-5)
    assert "goods/pearson" in values and "spearman" in films
    keyed = [each.keyed("eval", found) for each, found in zip(evaluators, measures, strict=True)]
    keys = [measure.name for found in keyed for measure in found]
    assert len(keys) == len(set(keys))


def test_the_run_keeps_how_they_are_shown(run: Path) -> None:
    displays = read_displays(RunDir(run))
    assert displays["eval/largest/weight"]["better"] == "lower"
    assert displays["eval/loss"]["show"] == displays["final/web/loss"]["show"] == "headline"


def test_the_sums_of_the_parts_are_those_of_the_whole() -> None:
    config, prepared = tiny.prepared(tiny.load("transformer", MIXTURE, "eval.batch_size=4").config)
    session = Session(config, prepared, tiny.program(config))
    (evaluator,) = evaluators_of(session)
    params = tiny.params_of(session.program)
    (found,) = evaluator.measuring.after(params, [None])
    plain = values_of(evaluator.measuring.whole.measure(params))
    values = values_of(found)
    assert {name: values[name] for name in plain} == pytest.approx(plain, rel=1e-5)
    assert set(values) == {f"{part}{n}" for part in ("", "web/", "books/") for n in plain}


def test_answers_are_written_by_models_that_write() -> None:
    config = SimpleNamespace(
        data=None,
        train=SimpleNamespace(batch_size=2),
        sample=SimpleNamespace(max_tokens=4),
        objective=MaskedLM(),
        model=None,
    )
    tasks: list[Any] = [Chat(), Classification()]
    prepared = SimpleNamespace(
        task_of=lambda split: tasks[0],
        splits={"validation": SimpleNamespace(rows=SimpleNamespace(records=[]))},
        tokenizer=None,
        row_spec=None,
    )
    session: Any = SimpleNamespace(config=config, prepared=prepared, program=None)
    with pytest.raises(UserError, match="a model of objective masked_lm fills .* type: loss"):
        TaskMeasures().prepare(session)
    del tasks[0]
    with pytest.raises(UserError, match="task classification are predicted, not written"):
        TaskMeasures(num_beams=4).prepare(session)


@pytest.mark.parametrize(
    ("evaluators", "error"),
    [
        ("{a: {split: validation/b}}", "evaluators.a.split: the data has no 'validation/b'"),
        ("{a: {type: lost}}", "evaluators.a.type: unknown type"),
    ],
)
def test_a_wrong_evaluator_is_one_line(evaluators: str, error: str) -> None:
    with pytest.raises(UserError, match=error):
        config, prepared = tiny.prepared(
            tiny.load("transformer", f"evaluators={evaluators}").config
        )
        evaluators_of(Session(config, prepared, tiny.program(config)))
