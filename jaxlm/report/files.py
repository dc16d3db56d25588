"""The files of a run directory. A missing file is empty, a damaged one is named.

run = read_run(Path("runs/tiny"))
run.metrics, run.samples, run.timing["nanoseconds"]["step"], run.problems

config.yaml         the resolved configuration
marks.json          {dotted path: where it was set}, the paths that were set
environment.json    versions, devices, commit: any nested values
data_manifest.json  sources, tokens, hashes: any nested values
metrics.jsonl       what `jaxlm.runs.trackers` writes
samples.jsonl       {"step": , "time": , "samples": [{"prompt": , "text": }]} a line
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
from pathlib import Path
from statistics import median
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.run import own_config
from jaxlm.runs.checkpoints import CheckpointInfo, list_checkpoints
from jaxlm.runs.files import folder_problems, read_own, read_result
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import read_record
from jaxlm.runs.trackers import read_metrics, series

Points = tuple[list[int], list[float]]  # steps, values


@dataclass(kw_only=True)
class RunFiles:
    """The content of a run's files; `problems` are files that could not be read."""

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
    checkpoints: list[CheckpointInfo]
    problems: list[str] = field(default_factory=list)

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
        """The points of a metric of the validation split that are comparable with one another."""
        return self._measured(name)[0]

    def whole(self, name: str) -> Points:
        """The metric over the whole split, after the last step, where it adds to the curve."""
        return self._measured(name)[1]

    def _measured(self, name: str) -> tuple[Points, Points]:
        steps, values = series(self.metrics, f"eval/{name}")
        part = (self.config.get("eval") or {}).get("max_batches")
        if any(key.startswith("final/") for record in self.metrics for key in record):
            ends = series(self.metrics, f"final/{name}")
        elif part and steps and self.result.get("step") == steps[-1]:
            # an older version has both under one name
            ends = [steps.pop()], [values.pop()]
        else:
            ends = [], []
        same = set(zip(steps, values, strict=True))
        kept = [pair for pair in zip(*ends, strict=True) if pair not in same]
        return (steps, values), ([step for step, _ in kept], [value for _, value in kept])

    @property
    def step(self) -> int:
        """The last step with a line in metrics.jsonl."""
        return max((record["step"] for record in self.metrics), default=0)


def read_run(run_dir: Path) -> RunFiles:
    """Reads a run directory; `problems` names damaged files. Raises UserError if there is none."""
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
        checkpoints=list_checkpoints(
            paths.checkpoints, settings.get("keep_last"), settings.get("keep_every")
        ),
        problems=list(dict.fromkeys([*problems, *folder_problems(paths)])),
    )


def time_of(record: Mapping[str, Any]) -> float:
    """The unix seconds of a line, 0 where it has none that can be true."""
    at = record.get("time")
    return at if isinstance(at, (int, float)) and 0 < at < 1e11 else 0
