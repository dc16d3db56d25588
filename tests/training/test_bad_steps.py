"""Steps whose loss is not finite: they cost nothing that was good, and a resume works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxlm import api, info
from jaxlm.core.callback import Hook, Taken
from jaxlm.core.config import UserError
from jaxlm.core.exit_codes import DONE, INTERRUPTED, NOT_FINITE
from jaxlm.core.measures import Measure
from jaxlm.evals.evaluators import evaluators_of
from jaxlm.report.files import read_run
from jaxlm.run import load_run, load_saved
from jaxlm.runs.checkpoints import committed_steps
from jaxlm.runs.trackers import read_metrics
from jaxlm.training import rollback
from jaxlm.training.loading import load_trained
from jaxlm.training.outcome import Outcome
from jaxlm.training.session import Session
from tests import tiny
from tests.hooks import At, terminate

pytestmark = pytest.mark.usefixtures("shared_programs")

QUIET = (
    "eval.every_steps=null",
    "sample.prompts=[]",
    "logging.tensorboard=false",
    "mesh.num_devices=1",
    "checkpoint.every_steps=1",
    "checkpoint.keep_last=1",
)


class Breaking(Hook):
    """Multiplies the weights after some steps, as a step that breaks them does."""

    def __init__(self, at: dict[int, float]) -> None:
        self.at = at

    def on_dispatch(self, run: Any, taken: Taken) -> None:
        if taken.step in self.at:
            scaled = scale(run.state["params"], self.at[taken.step])
            run.state = {**run.state, "params": scaled}


@jax.jit
def scale(tree: Any, factor: float) -> Any:
    return jax.tree.map(lambda p: p * factor, tree)


def train(
    run: Path, *settings: str, resume: bool = False, name: str = "transformer", hooks: Any = ()
) -> Outcome:
    resolved = tiny.load(name, *QUIET, f"run_dir={run}", *settings)
    return api.fit(resolved, must_exist=resume, hooks=hooks)


def test_a_bad_streak_replaces_and_prunes_nothing_and_the_hint_works(tmp_path: Path) -> None:
    """Step 5 breaks the weights, its own loss is finite and it is saved."""
    run = tmp_path / "run"
    outcome = train(run, "train.max_bad_steps=3", hooks=[Breaking({5: 1e30})])
    assert outcome.code == NOT_FINITE
    told = re.findall(r"step (\d+): the loss is not finite", (run / "log.txt").read_text())
    assert told == ["6", "7", "8"]
    ledger = map(json.loads, (run / "ledger.jsonl").read_text().splitlines())
    ids = ", ".join(str(n) for line in ledger if line["step"] == 8 for n in line["ids"])
    in_a_row = f"not finite for 3 steps in a row, last at step 8 (samples {ids})"
    assert in_a_row in outcome.message
    assert committed_steps(run / "checkpoints") == [4]
    assert (run / "checkpoints" / "00000005.broken").is_dir()
    assert "continue from checkpoint 4" in outcome.message
    rate = "optimizer.learning_rate=1e-4"
    outcome = train(run, "train.max_bad_steps=3", rate, resume=True)
    assert outcome.code == DONE, outcome.message
    assert committed_steps(run / "checkpoints") == [11, 12], "no step has proven the last"
    assert not list((run / "checkpoints").glob("*.broken"))


def test_weights_that_break_at_the_first_step_leave_the_start(tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = train(run, "train.max_bad_steps=2", hooks=[Breaking({1: 1e30})])
    assert outcome.code == NOT_FINITE and "continue from the start" in outcome.message
    assert committed_steps(run / "checkpoints") == []
    command = re.search(r"`jaxlm resume .* (optimizer.learning_rate=)\.\.\.`", outcome.message)
    assert command is not None
    outcome = train(run, f"{command[1]}1e-4", "train.max_bad_steps=2", resume=True)
    assert outcome.code == DONE, outcome.message


def test_a_signal_in_a_streak_saves_nothing_and_the_resume_ends_at_the_same_step(
    tmp_path: Path,
) -> None:
    run, broken = tmp_path / "run", Breaking({5: 1e30})
    outcome = train(run, "train.max_bad_steps=5", hooks=[broken, At({7: terminate})])
    assert outcome.code == INTERRUPTED and "not saved" in outcome.message
    assert committed_steps(run / "checkpoints")[0] == 4
    ended = train(run, "train.max_bad_steps=5", resume=True, hooks=[broken])
    undisturbed = train(tmp_path / "undisturbed", "train.max_bad_steps=5", hooks=[broken])
    assert ended.code == undisturbed.code == NOT_FINITE
    assert "last at step 10" in ended.message and "last at step 10" in undisturbed.message


@pytest.mark.parametrize("at_end", [True, False])
def test_a_run_that_ends_in_a_streak_keeps_the_last_good_checkpoint(
    tmp_path: Path, at_end: bool
) -> None:
    run, broken = tmp_path / "run", Breaking({5: 1e30})
    outcome = train(run, f"eval.at_end={at_end}".lower(), "train.steps=7", hooks=[broken])
    assert outcome.code == NOT_FINITE and "train.steps=5" in outcome.message
    assert committed_steps(run / "checkpoints") == [4]


def test_a_place_is_the_batch_that_a_walk_comes_to() -> None:
    gone = {2, 3, 7, 8, 9, 11}
    walk = [batch for batch in range(40) if batch not in gone]
    assert [rollback.place(step, gone) for step in range(20)] == walk[:20]


class BadBatch(Hook):
    """Batch 5 (from 0) breaks the weights wherever it comes, by the ids of its rows."""

    def on_dispatch(self, run: Any, taken: Taken) -> None:
        size = run.config.train.batch_size
        wanted = [int(run.loader.row(5 * size + i)["id"]) for i in range(size)]
        if taken.ids.tolist() == wanted:
            run.state = {**run.state, "params": scale(run.state["params"], 1e30)}


ROLLBACK = "train.rollback={after: 2, before: 1, max: 2}"


@pytest.mark.parametrize(
    ("name", "every"),
    [
        pytest.param("transformer", 2, marks=pytest.mark.slow),
        ("lstm", 5),
    ],  # the LSTM has a carry too
)
def test_a_rollback_skips_the_batches_and_ends_equal_from_any_checkpoint(
    tmp_path: Path, name: str, every: int
) -> None:
    """Undisturbed, and killed at every turn: the record, the ids and the weights are equal.

    An LSTM's carry is restored with the weights. `tools/chaos.py --scenario rollback` kills it.
    """
    bad, settings = BadBatch(), (ROLLBACK, "checkpoint.every_steps=3")
    straight = train(tmp_path / "straight", *settings, name=name, hooks=[bad])
    assert straight.code == DONE, straight.message
    assert straight.result["skipped"] == [{"step": 8, "batches": [5, 6, 7]}]
    rollback_is_shown(tmp_path / "straight", to=3)

    class Killed(Exception):
        pass

    kills = [4, 7, 6, 9, 11]

    class Kill(Hook):
        def on_start(self, run: Any) -> None:
            if run.skips and len(kills) == 3:  # it has gone back
                raise Killed

        def on_dispatch(self, run: Any, taken: Taken) -> None:
            if kills and taken.step == kills[0]:
                kills.pop(0)
                raise Killed

    run, outcome = tmp_path / "killed", None
    for _ in range(9):
        try:
            settings = (ROLLBACK, f"checkpoint.every_steps={every}")
            outcome = train(run, *settings, name=name, hooks=[bad, Kill()])
            break
        except Killed:
            continue
    assert outcome is not None and outcome.code == DONE and not kills
    assert outcome.result["skipped"] == straight.result["skipped"]
    hashes = [o.result["final"]["param_sha256"] for o in (outcome, straight)]
    assert hashes[0] == hashes[1]
    ledgers = [(folder / "ledger.jsonl").read_text() for folder in (run, tmp_path / "straight")]
    assert ledgers[0] == ledgers[1]
    rollback_is_shown(run, to=5 // every * every)


def rollback_is_shown(run: Path, to: int) -> None:
    """In metrics.jsonl, on the report and by `jaxlm info`, once each."""
    page = read_run(run)
    ((step, seen, batches),) = [
        (r["step"], r["seen"], r["batches"]) for r in page.events("rollback")
    ]
    assert (step, seen, batches) == (to, 8, [5, 6, 7])
    text = (run / "report.html").read_text()
    assert text.count("rolled back to this step: the loss was not finite at step 8") == 1
    assert 'class="mark back"' in text and "rolled back once" in text
    shown = info.render(info.describe_run(run))
    assert "at step 8: batches 5 to 7 are skipped (0 is the first)" in shown


def test_the_end_on_a_cpu_shows_what_is_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evaluation due at the last step though at_end is off; no MFU; the compilation's time."""
    settings = ("train.steps=4", "eval.every_steps=4", "eval.at_end=false")
    outcome = train(tmp_path / "run", *settings)
    assert outcome.code == DONE and "eval/loss" in outcome.result["final"]
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"eval/loss"' in metrics and "mfu" not in metrics
    out = capsys.readouterr().out
    assert "compiled the train step in" in out and "MFU" not in out
    steps = re.findall(r"^(\d+)/4  ", out, re.MULTILINE)
    assert steps == ["1", "4"], "the first step, and the last one once"


def test_a_confusion_table_of_many_classes_fits_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from jaxlm.cli.shared.figures import print_figures

    classes = [f"class number {i}" for i in range(15)]
    table = [[90 if i == j else 5 * (j == i + 1) for j in range(15)] for i in range(15)]
    print_figures([Measure("confusion", {"classes": classes, "table": table}, show="table")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) == 1 + 15 + 10
    assert lines[2].split()[-4:] == ["0.947", "0.947", "0.947", "95"]
    assert "class number 13 taken for class number 14: 5" in lines[16]


def test_a_schedule_that_does_not_fit_is_found_before_the_data_with_file_and_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.yaml"
    text = (tiny.SMOKE / "transformer.yaml").read_text()
    text = text.replace("{type: cosine, warmup: 2}", "{type: wsd, warmup: 20, decay: 24}")
    path.write_text(text)
    line = 1 + text[: text.index("type: wsd")].count("\n")
    missing = "data.source={type: text, files: no.txt}"
    with pytest.raises(UserError, match=rf"run.yaml:{line}: optimizer.schedule.decay: 24 steps"):
        api.fit(load_run(path, ["train.steps=30", missing, f"run_dir={tmp_path}/run"]))


def test_a_resume_that_extends_a_run_reports_what_its_schedule_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, schedule = tmp_path / "run", "optimizer.schedule={type: linear, warmup: 0}"
    settings = (schedule, "optimizer.learning_rate=0.004", "eval.at_end=false")
    assert train(run, *settings, "train.steps=3").code == DONE
    assert train(run, *settings, "train.steps=4", resume=True).code == DONE
    assert "of 4 steps now: the learning rate after step 3 is 0.001, it was 0" in (
        capsys.readouterr().out
    )
    text = (run / "report.html").read_text()
    assert "resumed; changed train.steps: 3 -&gt; 4" in text


@pytest.mark.parametrize("at_end", [True, False])
def test_points_of_a_curve_are_comparable_and_the_whole_split_is_apart(
    tmp_path: Path, at_end: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """One pass over the split at the end gives the curve's last point and the final figures."""
    run, every = tmp_path / "run", "eval.every_steps=2"
    settings = (every, "eval.max_batches=1", "eval.batch_size=2", f"eval.at_end={at_end}".lower())
    outcome = train(run, *settings, "train.steps=4")
    assert outcome.code == DONE
    lines = [r for r in read_metrics(run / "metrics.jsonl") if "eval/loss" in r]
    assert [r["step"] for r in lines] == [2, 4] and "final/loss" not in lines[0]
    (evaluator,) = evaluators_of(Session.open(load_saved(run).config, report=print))
    measuring = evaluator.measuring
    params = load_trained(run, overrides=(), step=None, report=print)[2]
    part, whole = (measures[0].value for measures in measuring.after(params, [1, None]))
    assert lines[1]["eval/loss"] == pytest.approx(part, rel=1e-6)
    assert outcome.result["final"]["eval/loss"] == pytest.approx(whole if at_end else part)
    assert whole != pytest.approx(part, rel=1e-6)
    if at_end:
        assert lines[1]["final/loss"] == outcome.result["final"]["eval/loss"]
    of = measuring.extent(None)["of"]
    count = of if at_end else 1
    assert outcome.result["evaluated"] == {"batches": count, "of": of}
    extent = f"whole validation split ({count}" if at_end else f"1 of {of} batches"
    assert extent in outcome.message and extent in info.render(info.describe_run(run))
    assert f"on {'the ' * at_end}{extent}" in (run / "report.html").read_text()
    assert ("  final " in capsys.readouterr().out) == at_end


def test_a_run_killed_in_its_end_has_one_line_of_the_last_evaluation(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for resume in (False, True):
        assert train(run, "train.steps=2", "eval.max_batches=1", resume=resume).code == DONE
        (run / "result.json").unlink()  # as if killed before it was written
    lines = read_metrics(run / "metrics.jsonl")
    assert [r["step"] for r in lines if "final/loss" in r] == [2]
