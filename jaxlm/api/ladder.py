"""A ladder: models from unigrams to Transformers on the same data, each at budgets of time.

    outcome = ladder("configs/ladder/shakespeare.yaml", budgets=("10s", "1min"))

Each rung at each budget is an ordinary run in a folder of its own (`jaxlm.api.ladder_config`). A
budget of seconds is training time: steps, waiting for batches, and what the run evaluates while it
trains. How many steps that are is measured before the run (`jaxlm.api.step_speed`) and stored, so
that the schedule ends with the budget and an interrupted run continues as the same one. Models that
are counted, and rungs with `own_length`, are one point. Results are stored beside the runs, by what
they depend on: the same command skips them. ladder.json and ladder.html are written after each run.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxlm.api.ladder_config import Budget, LadderConfig, Task, load_ladder, tasks_of
from jaxlm.api.opening import fit
from jaxlm.api.run_inputs import content, inputs
from jaxlm.api.step_speed import seconds_per_step
from jaxlm.core.callback import Hook
from jaxlm.core.config import Resolved, UserError
from jaxlm.core.errors import few
from jaxlm.core.exit_codes import DONE, INTERRUPTED, NOT_FINITE
from jaxlm.core.files import read_sealed, write_atomic, write_sealed
from jaxlm.core.tree import flatten
from jaxlm.nn.stored_kernel import count_of
from jaxlm.report.ladder import said, table, write_page
from jaxlm.run import RunConfig
from jaxlm.runs.folder import RunDir
from jaxlm.runs.log import messages_above
from jaxlm.runs.measures import final_measures
from jaxlm.training.outcome import Outcome
from jaxlm.training.session import prepare_data

log = logging.getLogger("jaxlm")

PROBE_SHARE, PROBE_LIMITS = 0.05, (1.0, 10.0)  # of a budget, and in seconds

Report = Callable[[str], None]


def ladder(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    budgets: Sequence[str] | None = None,
    rungs: Sequence[str] | None = None,
    out: str | Path | None = None,
    report: Report = print,
) -> Outcome:
    """Trains what is not trained yet, and writes ladder.json and ladder.html in `out`.

    overrides: settings of every run. budgets: by name, such as "10s"; None: those not optional.
    rungs: by name; None: all. Raises `UserError` for a mistake in the config or in one of its runs.
    """
    found = load_ladder(config)
    chosen = found.chosen(None if budgets is None else tuple(budgets))
    folder = Path(out or f"runs/ladder/{Path(config).stem}")
    only = None if rungs is None else tuple(rungs)
    tasks = tasks_of(config, found, chosen, tuple(overrides), folder, only)
    points: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    diverged: list[str] = []
    store = _Store(folder, report)
    for task in tasks:
        point = store.point(task)
        if point is None:
            outcome = _train(store, task, report)
            if outcome.code == NOT_FINITE:
                diverged.append(f"{task.title} is left out: {outcome.message}")
                report(diverged[-1])
                continue
            if outcome.code != DONE:
                return _cut(task, outcome)
            point = store.finish(task, outcome.result, found.measure)
        report(f"{task.title}: {said(point)}, trained {point['training']:.1f} s")
        points.append(point)
        result = _result(found, config, overrides, points)
        write_atomic(folder / "ladder.json", json.dumps(result, indent=1) + "\n")
        write_page(folder, result)
    lines = [f"{table(result)}\nreport: {folder / 'ladder.html'}"] if points else []
    return Outcome(NOT_FINITE if diverged else DONE, "\n".join([*lines, *diverged]), result)


def _cut(task: Task, outcome: Outcome) -> Outcome:
    """The outcome of a ladder with a run that has not come to its end."""
    how = outcome.message.partition(";")[0] if outcome.code == INTERRUPTED else outcome.message
    again = "; the same command continues" if outcome.code == INTERRUPTED else ""
    return Outcome(outcome.code, f"{task.title}: {how}{again}")


def _train(store: _Store, task: Task, report: Report) -> Outcome:
    """Trains a task to the end of its budget, or on from where it was interrupted."""
    config = task.run.config
    budget = store.budget(task)
    if budget is None:
        store.check_own(task)
        budget = _in_steps(config, task.budget)
        store.keep_budget(task, budget)
    if budget:
        steps = int(budget["steps"])
        report(f"{task.title}: {steps:,} steps")
        config = config.replace(train=config.train.replace(steps=steps, epochs=None))
    if RunDir(config.run_dir or "").result.is_file() and not store.clock_of(task).is_file():
        shutil.rmtree(config.run_dir or "")  # killed before its times were written
    return fit(Resolved(config, task.run.marks), hooks=[Clock(store.clock_of(task))])


def _in_steps(config: RunConfig, budget: Budget | None) -> dict[str, Any]:
    """The steps of a budget, and the measured time of one where they depend on that; {}: the run
    has its own length.
    """
    if budget is None:
        return {}
    if budget.steps is not None:
        return {"steps": budget.steps}
    assert budget.seconds is not None, "Budget.validate"
    low, high = PROBE_LIMITS
    seconds = min(max(PROBE_SHARE * budget.seconds, low), high)
    with messages_above(None):
        speed = seconds_per_step(config, seconds=seconds, report=log.info)
    return {"steps": max(1, round(budget.seconds / speed)), "seconds_per_step": speed}


class Clock(Hook):
    """Writes what a run took and what it computed, when it has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._evaluated = 0.0  # seconds of evaluations while it trains: not of the last one

    def on_start(self, run: Any) -> None:
        self._evaluated = run.watch.seconds()["eval"]

    def on_metrics(self, run: Any, taken: Any) -> None:
        self._evaluated = run.watch.seconds()["eval"]

    def on_end(self, run: Any, outcome: Any) -> None:
        if not run.first or outcome.code != DONE:
            return
        spent, session = run.watch.seconds(), run.session
        length = session.prepared.seq_len
        tokens = run.step * run.config.train.batch_size * length
        self._path.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "training": spent["data"] + spent["step"] + self._evaluated,
            "start": spent["setup"] + spent["compile"],
            "whole": sum(spent.values()),
            "steps": run.step,
            "tokens": tokens,
            "parameters": count_of(flatten(run.config.objective.used_parameters(run.params))),
            "flops": tokens * session.program.step_flops_per_token(length),
            "device": jax.local_devices()[0].device_kind,
            "devices": jax.device_count(),
            "cores": len(os.sched_getaffinity(0)),
        }
        write_sealed(self._path, values)


class _Store:
    """The files of a ladder: budgets in steps, times and results, by what they depend on."""

    def __init__(self, folder: Path, report: Report) -> None:
        self._folder, self._report = folder, report
        self._data: dict[str, str] = {}  # hashes of data, by the config of it

    def point(self, task: Task) -> dict[str, Any] | None:
        """The result of a task that is done. What is of another config or other data is removed."""
        point = self._stored(self._path("points", task), task)
        return None if point is None else point["point"]

    def finish(self, task: Task, result: dict[str, Any], name: str) -> dict[str, Any]:
        """Writes the result of a task that has been trained, and returns it."""
        config = task.run.config
        measures = {m.name: m for m in final_measures(RunDir(config.run_dir or ""), result)}
        main = measures.get(name)
        if main is None or not isinstance(main.value, int | float):
            names = few([m for m in measures if m.startswith("eval/")])
            raise UserError(f"measure: {task.title} has no {name}; the last evaluation has {names}")
        times = read_sealed(self.clock_of(task), f"remove {config.run_dir}")
        point = {
            "rung": task.rung.name,
            "budget": None if task.budget is None else task.budget.title,
            "note": task.rung.note,
            "run": config.run_dir,
            "value": float(main.value) if math.isfinite(main.value) else None,
            "measure": {"name": main.name, **main.display},
            **times,
        }
        self._write("points", task, {"point": point})
        return point

    def check_own(self, task: Task) -> None:
        """Raises `UserError` where the folder of a task that has not begun has another run."""
        run = Path(task.run.config.run_dir or "")
        if run.is_dir() and any(run.iterdir()):
            raise UserError(
                f"{run}: is not of this ladder, which would write it for {task.title}; name "
                "another folder by --out, or move it"
            )

    def budget(self, task: Task) -> dict[str, Any] | None:
        """What `_in_steps` gave for a task, where it has begun."""
        found = self._stored(self._path("budgets", task), task)
        return None if found is None else found["budget"]

    def keep_budget(self, task: Task, budget: dict[str, Any]) -> None:
        self._write("budgets", task, {"budget": budget})

    def clock_of(self, task: Task) -> Path:
        return self._path("times", task)

    def _path(self, kind: str, task: Task) -> Path:
        return self._folder / kind / f"{task.name}.json"

    def _write(self, kind: str, task: Task, values: dict[str, Any]) -> None:
        path = self._path(kind, task)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, {"key": self._key(task), **values})

    def _stored(self, path: Path, task: Task) -> dict[str, Any] | None:
        """The values of a file, where they are of this task's config and data."""
        if not path.is_file():
            return None
        run = task.run.config.run_dir or ""
        values = read_sealed(path, f"remove it and {run}, and that run is trained again")
        if values["key"] == self._key(task):
            return values
        self._report(f"{run}: is of another config or other data, so it is trained again")
        shutil.rmtree(run, ignore_errors=True)
        for kind in ("points", "budgets", "times"):
            self._path(kind, task).unlink(missing_ok=True)
        return None

    def _key(self, task: Task) -> str:
        config = task.run.config
        if task.budget is not None:  # its steps are measured
            config = config.replace(train=config.train.replace(steps=1, epochs=None))
        sources = repr((config.tokenizer, config.data))
        if sources not in self._data:
            apart = config.replace(run_dir=str(self._folder))  # of no run that has begun
            with messages_above(None):
                self._data[sources] = content(prepare_data(apart, log.info))
        return inputs(config, self._data[sources])


def _result(
    found: LadderConfig, config: str | Path, overrides: Sequence[str], points: list[dict[str, Any]]
) -> dict[str, Any]:
    rungs = [rung.name for rung in found.rungs]
    return {
        "title": found.title,
        "config": str(config),
        "overrides": list(overrides),
        "rungs": [name for name in rungs if any(p["rung"] == name for p in points)],
        "measure": points[0]["measure"],
        "points": points,
    }
