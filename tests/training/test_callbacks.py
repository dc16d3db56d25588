"""Callbacks: those of a config, the profiler, early stopping, the best checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jaxlm import api
from jaxlm.core.callback import Callback, Hook, Taken
from jaxlm.core.config import UserError, field
from jaxlm.core.exit_codes import DONE, INTERRUPTED
from jaxlm.core.measures import Measure
from jaxlm.run import EarlyStopConfig, trajectory
from jaxlm.runs.checkpoints import committed_steps, list_checkpoints
from jaxlm.runs.trackers import read_metrics
from jaxlm.training.callbacks.early_stop import stop_reason
from jaxlm.training.history import History, Point, best_steps
from jaxlm.training.outcome import Outcome
from tests import tiny
from tests.hooks import At, terminate

pytestmark = pytest.mark.usefixtures("shared_programs")

QUIET = ("sample.prompts=[]", "logging.tensorboard=false", "mesh.num_devices=1", "train.steps=12")


@dataclass(frozen=True, kw_only=True)
class Note(Callback):
    """Logs the parameters' step, and stops the run at one."""

    stop: int | None = field(None, "the step to stop at", ge=1)

    def on_step(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        assert int(run.state["step"]) == step and metrics["bad_steps"] == 0
        run.log(step, [Measure("note/seen", float(step), brief="seen")])
        if step == self.stop:
            run.stop("seen enough")


class Order(Hook):
    """The names of the calls, with their steps."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def due(self, run: Any, step: int) -> bool:
        return step == 2

    def on_start(self, run: Any) -> None:
        self.calls.append(("start", run.step))

    def on_dispatch(self, run: Any, taken: Taken) -> None:
        self.calls.append(("dispatch", taken.step))

    def on_metrics(self, run: Any, taken: Taken) -> None:
        self.calls.append(("metrics", taken.step))

    def on_step(self, run: Any, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("step", step))

    def on_end(self, run: Any, outcome: Any) -> None:
        self.calls.append(("end", run.step))


def train(run: Path, *settings: str, hooks: Any = (), resume: bool = False) -> Outcome:
    resolved = tiny.load("transformer", *QUIET, f"run_dir={run}", *settings)
    return api.fit(resolved, hooks=hooks, must_exist=resume)


def values(run: Path, key: str) -> dict[int, float]:
    return {x["step"]: x[key] for x in read_metrics(run / "metrics.jsonl") if key in x}


def test_the_order_of_calls(tmp_path: Path) -> None:
    """Metrics come one step late, except where a callback is due."""
    order = Order()
    settings = ("train.steps=4", "eval.every_steps=null", "eval.at_end=false")
    assert train(tmp_path / "run", *settings, hooks=[order]).code == DONE
    assert order.calls == [
        ("start", 0),
        ("dispatch", 1),
        ("dispatch", 2),
        ("metrics", 1),
        ("metrics", 2),
        ("step", 2),
        ("dispatch", 3),
        ("dispatch", 4),
        ("metrics", 3),
        ("metrics", 4),
        ("end", 4),
    ]


def test_a_callback_of_the_config_logs_and_stops_and_the_run_stays_stopped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    note = f"callbacks=[{{type: '{__name__}:Note', every_steps: 3, stop: 6}}]"
    outcome = train(run, note)
    assert outcome.code == DONE and "stopped early: step 6 of 12; seen enough" in outcome.message
    assert values(run, "note/seen") == {3: 3.0, 6: 6.0}
    assert values(run, "final/loss").keys() == {6} and outcome.result["step"] == 6
    again = train(run, note, resume=True)
    assert again.code == DONE and "done already" in again.message and "seen enough" in again.message
    longer = train(run, note.replace("stop: 6", "stop: 9"), "train.steps=14", resume=True)
    assert "stopped early: step 9 of 14" in longer.message


def test_a_profile_is_written_and_changes_nothing(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", "train.steps=6")
    run = tmp_path / "run"
    profiled = train(run, "train.steps=6", "profile={start: 2, steps: 2}")
    traces = list((run / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1 and traces[0].stat().st_size > 1000
    assert "plugins/profile" in traces[0].as_posix(), "where TensorBoard looks for it"
    assert b"train_step" in traces[0].read_bytes()
    assert not (tmp_path / "plain" / "profile").exists()
    hashes = [o.result["final"]["param_sha256"] for o in (plain, profiled)]
    assert hashes[0] == hashes[1]


# ---------------------------------------------------------------------------------- early stopping


@pytest.mark.parametrize(
    ("found", "settings", "stops"),
    [
        ([3, 2, 1, 0], {}, False),
        ([3, 2, 2.5, 2.1], {}, True),
        ([3, 2, 2.5, 1.9], {}, False),
        ([3, 2.95, 2.9], {"min_delta": 0.2}, True),
        ([1, 2, 1.5, 1.6], {"better": "higher"}, True),
        ([float("nan"), float("nan")], {}, True),
        ([float("nan"), 2.0, 1.0], {}, False),
        ([2.0, float("nan"), float("nan")], {}, True),
    ],
)
def test_when_a_run_stops(found: list[float], settings: dict[str, Any], stops: bool) -> None:
    config = EarlyStopConfig(patience=2, **settings)
    points = [Point(10 * n, value, "lower") for n, value in enumerate(found)]
    assert bool(stop_reason(config, points)) is stops


EARLY = (
    "optimizer.learning_rate=1e-9",
    "eval.every_steps=2",
    "checkpoint.every_steps=3",
    "early_stop={patience: 2, min_delta: 0.1}",
)


def test_a_run_that_does_not_improve_stops_and_stays_stopped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = train(run, *EARLY)
    assert outcome.code == DONE and outcome.result["step"] == 6
    assert "stopped early: step 6 of 12; eval/loss is" in outcome.message
    assert values(run, "eval/loss").keys() == {2, 4, 6}
    assert committed_steps(run / "checkpoints")[-1] == 6
    again = train(run, *EARLY, resume=True)
    assert "done already" in again.message and "stopped early" in again.message
    patient = train(run, *EARLY[:-1], "early_stop={patience: 4, min_delta: 0.1}", resume=True)
    assert patient.result["step"] == 10
    assert values(run, "eval/loss").keys() == {2, 4, 6, 8, 10}


@pytest.mark.parametrize("stops", [pytest.param((3,), marks=pytest.mark.slow), (4, 5)])
def test_a_resumed_run_stops_at_the_same_step(tmp_path: Path, stops: tuple[int, ...]) -> None:
    straight = train(tmp_path / "straight", *EARLY)
    run = tmp_path / "run"
    for step in stops:
        assert train(run, *EARLY, hooks=[At({step: terminate})]).code == INTERRUPTED
    outcome = train(run, *EARLY)
    assert outcome.result["step"] == straight.result["step"] == 6
    keys = ("param_sha256", "eval/loss")
    assert [outcome.result["final"][k] for k in keys] == [straight.result["final"][k] for k in keys]
    assert values(run, "eval/loss") == values(tmp_path / "straight", "eval/loss")


def test_a_run_killed_after_its_early_stop_measures_and_ends(tmp_path: Path) -> None:
    run = tmp_path / "run"
    before = train(run, *EARLY)
    (run / "result.json").unlink()  # as if it was killed before this was written
    outcome = train(run, *EARLY, resume=True)
    assert outcome.code == DONE and outcome.result["step"] == 6
    assert outcome.result["final"] == before.result["final"]
    lines = read_metrics(run / "metrics.jsonl")
    assert [x["step"] for x in lines if "final/loss" in x] == [6]


def test_early_stopping_and_what_it_measures_belong_to_the_run() -> None:
    plain, every = tiny.load("transformer"), "eval.every_steps=3"
    early = tiny.load("transformer", "early_stop={patience: 2}")
    assert trajectory(plain.config) == trajectory(tiny.load("transformer", every).config)
    assert trajectory(plain.config) != trajectory(early.config)
    other = tiny.load("transformer", "early_stop={patience: 2}", every)
    assert trajectory(other.config) != trajectory(early.config)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("early_stop={measure: eval/x/loss}", ""),
        ("early_stop={measure: loss}", "early_stop.measure: no evaluator reports loss"),
        ("checkpoint.keep_best={measure: valid/loss}", "keep_best.measure: no evaluator reports"),
        ("early_stop={measure: eval/bleu}", "training has no eval/bleu; it has eval/loss"),
        ("checkpoint.keep_best={measure: eval/f1}", "training has no eval/f1; it has eval/loss"),
    ],
)
def test_a_measure_that_nobody_reports_is_an_error(
    tmp_path: Path, settings: str, said: str
) -> None:
    every = "eval.every_steps=2" if said else "eval.every_steps=null"
    with pytest.raises(UserError, match=said or "measured at the end alone"):
        train(tmp_path / "run", settings, every)


# ------------------------------------------------------------------------------------ best of all


def test_the_best_steps() -> None:
    points = [Point(1, 3.0, "lower"), Point(2, 1.0, "lower"), Point(3, float("nan"), "lower")]
    points += [Point(4, 1.0, "lower"), Point(5, 2.0, "lower")]
    assert best_steps(points, 2, None) == [2, 4]
    assert best_steps(points, 2, "higher") == [1, 5]
    assert best_steps([], 2, None) == []


def test_a_history_is_kept_as_json() -> None:
    history = History()
    history.add("eval/loss", Point(2, float("inf"), "lower"))
    history.add("eval/loss", Point(1, 0.1, None))
    again = History(json.loads(json.dumps(history.plain, allow_nan=False)))
    assert again.points("eval/loss") == [Point(1, 0.1, None), Point(2, float("inf"), "lower")]


BEST = (
    "eval.every_steps=2",
    "checkpoint.every_steps=3",
    "checkpoint.keep_last=1",
    "checkpoint.keep_best={measure: eval/loss, count: 2, better: higher}",
)


@pytest.mark.parametrize(
    "stops", [*(pytest.param(x, marks=pytest.mark.slow) for x in ((), (3, 7))), (5, 6, 9)]
)
def test_the_best_checkpoints_stay_also_over_resumes(
    tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """The highest losses are the first ones, which are not kept for another reason."""
    run = tmp_path / "run"
    for step in stops:
        assert train(run, *BEST, hooks=[At({step: terminate})]).code == INTERRUPTED
    assert train(run, *BEST).code == DONE
    found = {step: value for step, value in values(run, "eval/loss").items() if step < 12}
    want = sorted(found, key=lambda step: (-found[step], step))[:2]
    assert max(want) < 9, "the test needs a loss that falls"
    steps = committed_steps(run / "checkpoints")
    assert set(want) <= set(steps) and steps[-1] == 12
    assert len(steps) <= 4  # the best, the newest, and the newest that a later step has proven
    kept = {c.step: c.kept_reason for c in list_checkpoints(run / "checkpoints", 1)}
    assert all(kept[step].startswith("best") for step in want)
    if not stops:
        assert api.load(run, step="best").step == want[0]
        train(tmp_path / "plain", "train.steps=2")
        with pytest.raises(UserError, match="no checkpoint is known as the best"):
            assert api.load(tmp_path / "plain", step="best").step
