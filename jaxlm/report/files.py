"""The files of a run directory. A missing file is empty, a damaged one is named.

run = read_run(Path("runs/tiny"))
run.metrics, run.samples, run.timing["nanoseconds"]["step"], run.problems

config.yaml         the resolved configuration
marks.json          {dotted path: where it was set}, the paths that were set
measures.json       how the measures are shown, see `jaxlm.runs.measures`
environment.json    versions, devices, commit: any nested values
data_manifest.json  sources, tokens, hashes: any nested values
metrics.jsonl       what `jaxlm.runs.trackers` writes
samples.jsonl       {"step": , "time": , "samples": [{"prompt": , "text": }]} a line; of some runs
                    "marks": {"label": , "prompt": 3, "pieces": [["to", 2], ...]} in a sample
timing.json         what `jaxlm.runs.stopwatch` writes
result.json         {"final": {name: value}}, and of a classification
                    "confusion": {"classes": [...], "table": [[...]]}, rows the true classes
identity.json       what `jaxlm.runs.identity` writes: {"identity": {"accepted": [...]}}
checkpoints/        one folder a step
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.measures import Measure, from_display
from jaxlm.report.measures import OLDER
from jaxlm.run import own_config
from jaxlm.runs.checkpoints import CheckpointInfo, list_checkpoints
from jaxlm.runs.files import folder_problems, read_own, read_result
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import read_record
from jaxlm.runs.measures import Displays, read_displays
from jaxlm.runs.trackers import read_metrics, series

Points = tuple[list[int], list[float]]  # steps, values


@dataclass(kw_only=True)
class RunFiles:
    """The content of a run's files; `problems` are files that could not be read."""

    path: Path
    name: str
    config: dict[str, Any]
    marks: dict[str, str]
    environment: dict[str, Any]
    manifest: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    timing: dict[str, Any]
    result: dict[str, Any]
    identity: dict[str, Any]
    displays: Displays
    checkpoints: list[CheckpointInfo]
    problems: list[str] = field(default_factory=list)

    def measure(self, key: str, value: Any = math.nan) -> Measure:
        """A value under a key of metrics.jsonl or result.json, with how it is shown."""
        return from_display(key, value, self.displays.get(key) or OLDER.get(key))

    def rank(self, key: str) -> int:
        """The place of a key among the measures: the main one first, unknown ones last."""
        known = list(dict.fromkeys([*self.displays, *OLDER]))
        return known.index(key) if key in known else len(known)

    @cached_property
    def measured(self) -> list[str]:
        """The keys of metrics.jsonl that measure something, such as "eval/loss", by rank."""
        found = {key: None for record in self.metrics for key in record if "/" in key}
        return sorted(found, key=self.rank)

    def finals(self) -> list[Measure]:
        """The measures of the result that are numbers, by rank."""
        found = []
        for key, value in self.result.get("final", {}).items():
            # older versions left out the prefix
            own = "/" in key or key in self.displays or key in OLDER
            if isinstance(value, int | float) and not isinstance(value, bool):
                found.append(self.measure(key if own else f"eval/{key}", value))
        return sorted(found, key=lambda m: self.rank(m.name))

    def texts(self) -> list[Measure]:
        """The measures of the result that are texts, such as hashes."""
        final = self.result.get("final", {})
        return [self.measure(key, value) for key, value in final.items() if isinstance(value, str)]

    def tables(self) -> list[dict[str, Any]]:
        """The tables of the validation split: {"classes": [names], "table": [[counts]]}."""
        own = [value for key, value in self.result.items() if "/" not in key]
        values = [value for value in own if isinstance(value, dict)]
        return [value for value in values if {"classes", "table"} <= value.keys()]

    def headlines(self) -> list[Measure]:
        """The measures to show at the top: of the evaluation, of training, of the whole run."""
        found = {m.name: m for m in self.finals() if m.show == "headline"}
        for key in self.measured:
            measure, part = self.measure(key), key.partition("/")[0]
            if measure.show != "headline" or key in found or part == "final":
                continue
            over = self.median(key) if measure.summary == "median" else self.last(key)
            if over is not None:
                found[key] = measure.of(over)
        return sorted(found.values(), key=_headline_group)

    def title(self, measure: Measure) -> str:
        """The name of a measure beside all others: "validation loss", "tokens/s, median"."""
        part, _, base = measure.name.partition("/")
        if part == "eval" and f"train/{base}" in self.measured:
            return f"validation {measure.title}"
        return f"{measure.title}, median" if measure.summary == "median" else measure.title

    def main(self) -> dict[int, str]:
        """{step: text} of the first measure of the validation split, such as its loss."""
        key = next((key for key in self.measured if key.startswith("eval/")), None)
        if key is None:
            return {}
        measure = self.measure(key)
        points = zip(*self.curve(key.removeprefix("eval/")), strict=True)
        return {step: f"{self.title(measure)} {measure.shown(value)}" for step, value in points}

    def last(self, name: str) -> float | None:
        """The final value of a metric: the result's, else the last one logged."""
        final = self.result.get("final", {})
        for key in (name, name.removeprefix("eval/")):
            if isinstance(final.get(key), (int, float)):
                return final[key]
        for record in reversed(self.metrics):
            if isinstance(record.get(name), (int, float)):
                return record[name]
        return None

    def median(self, name: str) -> float | None:
        """The median of a metric over the run; None where it was never finite."""
        values = [v for v in series(self.metrics, name)[1] if math.isfinite(v)]
        return median(values) if values else None

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl with this event, each once.

        A run that was killed after a rollback and before its next save repeats the rollback.
        """
        found: dict[str, dict[str, Any]] = {}
        for record in self.metrics:
            if record.get("event") == kind:
                again = repr(record.get("batches")) if kind == "rollback" else str(len(found))
                found.setdefault(again, record)
        return list(found.values())

    def curve(self, name: str) -> Points:
        """The points of a metric of the validation split that are comparable with each other."""
        return self._measured(name)[0]

    def whole(self, name: str) -> Points:
        """The metric over the whole split, before the first step and after the last one, where it
        adds to the curve.
        """
        return self._measured(name)[1]

    def _measured(self, name: str) -> tuple[Points, Points]:
        steps, values = series(self.metrics, f"eval/{name}")
        part = (self.config.get("eval") or {}).get("max_batches")
        if any(key.startswith("final/") for key in self.measured):
            ends = series(self.metrics, f"final/{name}")
        elif part and steps and self.result.get("step") == steps[-1]:
            # an older version has both under one name
            ends = [steps.pop()], [values.pop()]
        else:
            ends = [], []
        same = set(zip(steps, values, strict=True))
        starts = series(self.metrics, f"start/{name}")
        whole = [pair for points in (starts, ends) for pair in zip(*points, strict=True)]
        kept = [pair for pair in whole if pair not in same]
        return (steps, values), ([step for step, _ in kept], [value for _, value in kept])

    @property
    def step(self) -> int:
        """The last step with a line in metrics.jsonl."""
        return max((record["step"] for record in self.metrics), default=0)


def read_run(run_dir: Path) -> RunFiles:
    """Reads a run directory; `problems` names damaged files. Raises UserError if it is missing."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run directory; name one that `jaxlm train` made")
    paths, problems = RunDir(run_dir), []

    def read_json(path: Path) -> dict[str, Any]:
        try:
            return read_own(paths, path)
        except FileNotFoundError:
            return {}
        except UserError as error:
            problems.append(str(error))
            return {}

    config: dict[str, Any] = {}
    record, _ = read_record(paths)
    if paths.config.exists() or record is not None:
        try:
            config = own_config(run_dir).values
        except UserError as error:
            problems.append(str(error))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metrics = read_metrics(paths.metrics)
        samples = read_metrics(paths.samples)  # the same rules: an object a line, each with a step
    problems.extend(str(warning.message) for warning in caught)
    result, problem = read_result(paths, (config.get("train") or {}).get("steps"))
    problems += [problem] if problem else []
    settings = config.get("checkpoint") or {}
    return RunFiles(
        path=run_dir,
        name=run_dir.resolve().name,
        config=config,
        marks={k: str(v) for k, v in read_json(paths.marks).items()},
        environment=read_json(paths.environment),
        manifest=read_json(paths.data_manifest),
        metrics=metrics,
        samples=[record for record in samples if isinstance(record.get("samples"), list)],
        timing=read_json(paths.timing),
        result=result,
        identity=asdict(record.identity) if record else {},
        displays=read_displays(paths),
        checkpoints=list_checkpoints(
            paths.checkpoints, settings.get("keep_last"), settings.get("keep_every")
        ),
        problems=list(dict.fromkeys([*problems, *folder_problems(paths)])),
    )


def _headline_group(measure: Measure) -> int:
    if measure.summary == "median":
        return 3
    part = measure.name.partition("/")
    return (0 if part[0] == "eval" else 1) if part[1] else 2


def time_of(record: Mapping[str, Any]) -> float:
    """The unix seconds of a line, 0 where it has none that can be true."""
    at = record.get("time")
    return at if isinstance(at, (int, float)) and 0 < at < 1e11 else 0
