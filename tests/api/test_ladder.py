"""`jaxlm ladder`: runs of several models at budgets, interrupted and continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

import jaxlm
from jaxlm import cli
from jaxlm.api import ladder as ladders
from jaxlm.api import step_speed
from jaxlm.api.ladder_config import load_ladder, tasks_of
from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import INTERRUPTED, NOT_FINITE
from jaxlm.training.learner import GradientLearner
from jaxlm.training.outcome import Outcome
from tests import tiny
from tests.hooks import terminate

pytestmark = pytest.mark.usefixtures("shared_programs")

LADDER = """
title: Tiny models
measure: eval/bits_per_char
budgets: [{steps: 2}, {steps: 6}, {steps: 900, optional: true}]
overrides: [eval.every_steps=null, "sample.prompts=[]", logging.tensorboard=false]
rungs:
  - name: Bigram
    config: SMOKE/transformer.yaml
    note: It is counted.
    overrides:
      - "model={type: ngram, order: 2}"
      - "objective={type: ngram, smoothing: {type: additive}}"
      - optimizer=null
      - train.steps=null
      - train.epochs=1
  - name: LSTM
    config: SMOKE/lstm.yaml
    overrides: [optimizer.learning_rate=1.0e-2]
    at: {2steps: [model.hidden_size=16]}
"""
ONE = ("mesh={data: 1, num_devices: 1}", "checkpoint={every_steps: 2, keep_last: 1}")


@pytest.fixture(scope="module")
def made(shared_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ladder, whose two shorter budgets have been trained in `out`."""
    folder = tmp_path_factory.mktemp("ladder")
    (folder / "tiny.yaml").write_text(LADDER.replace("SMOKE", str(tiny.SMOKE)))
    assert run(folder, "out") == 0
    return folder


def run(folder: Path, out: str, *more: str) -> int:
    words = ["ladder", str(folder / "tiny.yaml"), "--out", str(folder / out)]
    return cli.main([*words, *ONE, f"cache_dir={tiny.cache_dir()}", *more])


def result(folder: Path, out: str) -> dict[str, Any]:
    return json.loads((folder / out / "ladder.json").read_text())


def test_each_rung_is_an_ordinary_run_at_each_budget(made: Path) -> None:
    found = result(made, "out")
    points = found["points"]
    assert [(p["rung"], p["budget"], p["steps"]) for p in points[1:]] == [
        ("LSTM", "2 steps", 2),
        ("LSTM", "6 steps", 6),
    ]
    counted, small, large = (jaxlm.load(p["run"]) for p in points)
    assert counted.config.model.order == 2 and points[0]["budget"] is None
    assert (small.config.model.hidden_size, large.config.model.hidden_size) == (16, 32)
    assert large.config.optimizer.learning_rate == 1e-2 and large.config.train.steps == 6
    for p, each in zip(points, (counted, small, large), strict=True):
        stored = json.loads((each.path / "result.json").read_text())["final"]
        assert p["value"] == stored["eval/bits_per_char"] and 0 < p["value"] < 20
        assert 0 < p["training"] < p["training"] + p["start"] < p["whole"]
        assert p["note"] == ("It is counted." if p["rung"] == "Bigram" else "")
    # 3 times the forward pass for each token of 6 steps of 8 rows of 32
    assert points[2]["flops"] == 6 * 8 * 32 * 3 * large.program.flops_per_token(32)
    assert points[0]["flops"] == 0
    tables = {
        name: t for name, t in counted.params.items() if name != "text"
    }  # not the text itself
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (tables, large.params)]
    assert [points[0]["parameters"], points[2]["parameters"]] == sizes
    page = (made / "out/ladder.html").read_text()
    assert "Tiny models" in page and page.count("<figure") == 4


def test_what_is_done_is_skipped_and_another_config_is_trained_again(
    made: Path, capsys: Any
) -> None:
    before = result(made, "out")
    shutil.copytree(made / "out", made / "copy")
    (made / "out/lstm-6steps/config.yaml").write_text("damaged")  # it is not looked at
    assert run(made, "out", "--rungs", "LSTM") == 0
    assert result(made, "out")["points"] == before["points"][1:]
    assert "LSTM" in capsys.readouterr().out

    assert run(made, "out", "--budgets", "2 steps", "--rungs", "LSTM", "seed=2") == 0
    err = capsys.readouterr().err
    assert "lstm-2steps: is of another config or other data, so it is trained again" in err
    (changed,) = result(made, "out")["points"]
    assert changed["value"] != before["points"][1]["value"]
    (made / "copy/points/lstm-2steps.json").write_text("{}")
    assert run(made, "copy") == 2
    assert "remove it and" in capsys.readouterr().err
    shutil.rmtree(made / "out")
    shutil.move(made / "copy", made / "out")


def test_an_interrupted_rung_continues_as_the_same_run(
    made: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Its budget is stored in steps: a step that takes longer later changes nothing."""
    text = (made / "tiny.yaml").read_text()
    seconds = text.replace("{steps: 6}", "{seconds: 3}")
    other = made / "seconds"
    other.mkdir()
    (other / "tiny.yaml").write_text(seconds)
    speeds = iter([0.5, 30.0])  # 6 steps, as the budget in `made`
    monkeypatch.setattr(ladders, "seconds_per_step", lambda *_, **__: next(speeds))

    class Cut(ladders.Clock):
        def on_dispatch(self, run: Any, taken: Any) -> None:
            if taken.step == 3:
                terminate()

    with monkeypatch.context() as cut:
        cut.setattr(ladders, "Clock", Cut)
        assert run(other, "out", "--budgets", "3s", "--rungs", "LSTM") == INTERRUPTED
    assert "LSTM, 3 s: stopped by a signal after step 3 of 6, saved; the same command contin" in (
        capsys.readouterr().out
    )
    assert not (other / "out/ladder.json").exists()
    assert run(other, "out", "--budgets", "3s", "--rungs", "LSTM") == 0
    (resumed,) = result(other, "out")["points"]
    assert (resumed["budget"], resumed["steps"]) == ("3 s", 6)
    finals = [
        json.loads((path / "result.json").read_text())["final"]
        for path in (Path(resumed["run"]), made / "out/lstm-6steps")
    ]
    for key in ("param_sha256", "eval/loss"):
        assert finals[0][key] == finals[1][key]

    # killed after its result and before its times: they are not known, so it is trained again
    for kind in ("times", "points"):
        (other / f"out/{kind}/lstm-3s.json").unlink()
    assert run(other, "out", "--budgets", "3s", "--rungs", "LSTM") == 0
    assert result(other, "out")["points"][0]["value"] == resumed["value"]


def test_a_folder_of_another_run_is_not_touched(made: Path, capsys: Any) -> None:
    own = made / "mine" / "lstm-2steps"
    own.mkdir(parents=True)
    (own / "result.json").write_text("{}")
    assert run(made, "mine", "--budgets", "2steps", "--rungs", "LSTM") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "lstm-2steps: is not of this ladder" in line and "--out" in line
    assert (own / "result.json").read_text() == "{}"


def test_a_rung_that_diverges_is_left_out(made: Path, monkeypatch: Any, capsys: Any) -> None:
    whole = ladders.fit

    def diverge(run: Any, **given: Any) -> Outcome:
        if "lstm-2" in run.config.run_dir:
            return Outcome(NOT_FINITE, "the loss was not finite")
        return whole(run, **given)

    monkeypatch.setattr(ladders, "fit", diverge)
    assert run(made, "wild", "--rungs", "LSTM,Bigram") == NOT_FINITE
    assert [p["rung"] for p in result(made, "wild")["points"]] == ["Bigram", "LSTM"]
    said = capsys.readouterr()
    assert "LSTM, 2 steps is left out: the loss was not finite" in said.out
    monkeypatch.undo()
    assert run(made, "wild") == 0
    assert [p["steps"] for p in result(made, "wild")["points"][1:]] == [2, 6]


def test_a_mistake_is_one_line(made: Path, capsys: Any) -> None:
    def said(*words: str, **changes: str) -> str:
        text = (made / "tiny.yaml").read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        (made / "wrong.yaml").write_text(text)
        assert cli.main(["ladder", str(made / "wrong.yaml"), "--out", str(made / "x"), *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        return line

    assert "--budgets: there is no budget '3steps'; did you mean" in said("--budgets", "3steps")
    assert "--rungs: there is no rung 'GRU'; " in said("--rungs", "GRU")
    assert "rungs.1.at: there is no budget '9steps'" in said(**{"{2steps:": "{9steps:"})
    assert "rungs: 'bigram' is there twice" in said(**{"name: LSTM": "name: Bigram"})
    assert "seconds, steps: set exactly one" in said(**{"{steps: 2}": "{steps: 2, seconds: 1}"})
    assert "model.hiden_size" in said(**{"model.hidden_size": "model.hiden_size"})
    few = ("--budgets", "2steps", "--rungs", "LSTM", *ONE, f"cache_dir={tiny.cache_dir()}")
    line = said(*few, bits_per_char="bleu")
    assert "measure: LSTM, 2 steps has no eval/bleu; the last evaluation has eval/loss" in line


def test_budgets_have_names_and_runs_an_order(made: Path) -> None:
    found = load_ladder(made / "tiny.yaml")
    assert [b.title for b in found.chosen(None)] == ["2 steps", "6 steps"]
    assert [b.name for b in found.chosen(("900steps", "2 steps"))] == ["2steps", "900steps"]
    tasks = tasks_of(made / "tiny.yaml", found, found.chosen(None), (), Path("f"))
    assert [task.name for task in tasks] == ["bigram", "lstm-2steps", "lstm-6steps"]
    assert tasks[1].run.config.run_dir == "f/lstm-2steps"
    own = found.replace(rungs=(found.rungs[1].replace(own_length=True),))
    (task,) = tasks_of(made / "tiny.yaml", own, own.chosen(None), (), Path("f"))
    assert task.budget is None and task.run.config.train.steps == 12
    with pytest.raises(UserError, match="there is no budget"):
        found.chosen(("1min",))


def test_the_time_of_a_step_has_its_share_of_evaluations(monkeypatch: Any) -> None:
    """By a clock that the step and the evaluation move: 0.25 s and 3 s."""
    now = SimpleNamespace(time=0.0, steps=0)
    compiled = GradientLearner.compile

    def compile_slow(self: Any, *args: Any) -> Any:
        step = compiled(self, *args)

        def slow(*given: Any) -> Any:
            now.steps += 1
            now.time += 9.0 if now.steps <= step_speed.WARM else 0.25
            return step(*given)

        return slow

    class Measuring:
        def after(self, params: Any, counts: Any) -> None:
            assert counts == [7] and params
            now.time += 3.0

    every = SimpleNamespace(every_steps=10, max_batches=7)
    last = SimpleNamespace(every_steps=None, max_batches=None)
    fakes = [SimpleNamespace(config=c, measuring=Measuring()) for c in (every, last)]
    monkeypatch.setattr(GradientLearner, "compile", compile_slow)
    monkeypatch.setattr(step_speed, "evaluators_of", lambda session: fakes)
    config = tiny.load("lstm", *ONE, "run_dir=none").config
    got = step_speed.seconds_per_step(config, seconds=2.0, report=len, clock=lambda: now.time)
    assert got == pytest.approx(0.25 + 3.0 / 10)
    assert now.steps == step_speed.WARM + 8 and not Path("none").exists()
