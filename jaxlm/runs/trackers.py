"""Destinations of a run's numbers: metrics.jsonl and TensorBoard, and W&B or trackio if configured.

`metrics.jsonl` holds one JSON object a line: `step` (updates applied so far), `time` (unix
seconds), the metrics by name, and the line's checksum (see `jaxlm.runs.lines`). JSON has no NaN,
so a number that is not finite is written as the string "NaN", "Infinity" or "-Infinity", which
Python's `float` reads back.

    train/loss, train/grad_norm, ...     the steps since the line before
    eval/loss, eval/accuracy, ...        the first `eval.max_batches` batches of the validation
                                         split: the points of one curve are comparable
    final/loss, final/accuracy, ...      the whole split, after the last step (`eval.at_end`)
    start/loss, start/accuracy, ...      the whole split, before the first one (`eval.at_start`)

A line with `event` in place of metrics says what happened at its step:

    {"event": "start"}
    {"event": "resume", "changed": ["train.steps: 100 -> 200"]}           changed: if anything was
    {"event": "rollback", "seen": 8, "batches": [5, 6, 7]}                see
    jaxlm.training.rollback

    with MetricsWriter(run_dir, LoggingConfig()) as writer:
        writer.write(10, {"train/loss": 4.2, "train/learning_rate": 1e-3})
    read_metrics(run_dir / "metrics.jsonl")[-1]  # {"step": 10, "time": ..., "train/loss": 4.2, ...}

A line is written to the operating system before `write` returns, so a killed process loses none.
"""

from __future__ import annotations

import json
import math
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.config import Config, UserError, field
from jaxlm.runs.lines import Seals, damage_of, read_lines, truncate_jsonl

FILE_NAME = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class LoggingConfig(Config):
    """Settings of logging: what is logged, how often, and where to."""

    every_steps: int = field(10, "steps between two lines of metrics", ge=1)
    print_every_steps: int = field(50, "steps between two printed lines off a terminal", ge=1)
    tensorboard: bool = field(True, "write TensorBoard events to <run>/tensorboard")
    wandb: str | None = field(None, "W&B project to log to; needs jaxlm[wandb]")
    trackio: str | None = field(None, "trackio project to log to; needs jaxlm[trackio]")


def finalize(metrics: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    """Each (sum, weight) pair as the number sum / weight; NaN where nothing was counted (weight 0).

    Tables (a confusion table) are left out. The pairs may be device arrays: reading one waits for
    the device, so pass those of an earlier step.
    """
    values = {}
    for name, (total, weight) in metrics.items():
        if np.ndim(total):
            continue
        total, weight = float(total), float(weight)
        values[name] = total / weight if weight else math.nan
    return values


class MetricsWriter:
    """Appends metrics to every sink of `config`, from one process of a run.

    `resume_step` is the restored step, None where training starts from nothing. Lines of later
    steps are removed, since those steps are run again. `event` is the first line's content, by
    default a start or a resume. `run_config`, plain values, is shown by W&B and trackio.
    """

    def __init__(
        self,
        run_dir: Path,
        config: LoggingConfig,
        *,
        resume_step: int | None = None,
        event: Mapping[str, Any] | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / FILE_NAME
        last_step = -1 if resume_step is None else resume_step
        # Trackers first: a missing package must stop the run before it writes a file.
        self._sinks: list[_Sink] = []
        if config.wandb is not None:
            self._sinks.append(_wandb_sink(config.wandb, run_dir, run_config))
        if config.trackio is not None:
            self._sinks.append(_trackio_sink(config.trackio, run_dir, run_config))
        if config.tensorboard:
            self._sinks.append(_tensorboard_sink(run_dir / "tensorboard", last_step))
        self._warned = False
        truncate_jsonl(self._path, last_step)
        self._seals = Seals(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        event = event or {"event": "start" if resume_step is None else "resume"}
        self._line({"step": resume_step or 0, "time": time.time(), **event})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs `values`, host numbers by name, as those of `step`.

        A full disk does not end a run: one warning is given, and lines may be missing.
        """
        now = time.time()
        numbers = {name: float(value) for name, value in values.items()}
        self._guarded(self._line, {"step": int(step), "time": now, **numbers})
        for sink in self._sinks:
            self._guarded(sink.write, int(step), numbers, now)

    def close(self) -> None:
        """Closes every sink; a second call does nothing."""
        self._guarded(self._file.close)
        while self._sinks:
            self._guarded(self._sinks.pop().close)

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _guarded(self, act: Callable[..., None], *arguments: Any) -> None:
        try:
            act(*arguments)
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(f"{self._path}: metrics are not written: {error}", stacklevel=3)

    def _line(self, record: Mapping[str, Any]) -> None:
        self._file.write(self._seals(encode(record)))
        self._file.flush()


# ------------------------------------------------------------------------------------------ reading


def encode(record: Mapping[str, Any]) -> str:
    """`record` as one line of valid JSON: a number that is not finite becomes a string."""
    plain = {name: _finite(value) for name, value in record.items()}
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl in order, NaN and infinities as floats; [] without a file.

    An incomplete last line, which a killed process leaves, is dropped; other lines that are not as
    they were written, or not a JSON object, are skipped with a warning.
    """
    try:
        lines = read_lines(path)
    except UserError as error:
        warnings.warn(str(error), stacklevel=2)
        return []
    if problem := damage_of(path, lines):
        warnings.warn(problem, stacklevel=2)
    found = [line.record for line in lines]
    return [_decoded(r) for r in found if isinstance(r, dict) and isinstance(r.get("step"), int)]


def series(records: Iterable[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """The steps and values of one metric, in the order logged; non-numbers are left out."""
    pairs = [
        (record["step"], float(record[name]))
        for record in records
        if isinstance(record.get(name), (int, float))
    ]
    return [step for step, _ in pairs], [value for _, value in pairs]


def extent(evaluated: Mapping[str, Any] | None) -> str:
    """The data that the final figures of a result were measured on, in words."""
    if not evaluated:  # a result of an older version
        return "the validation split"
    count, whole = evaluated["batches"], evaluated["of"]
    if count < whole:
        return f"{count} of {whole} batches of the validation split"
    return f"the whole validation split ({whole} batch{'es' if whole > 1 else ''})"


def _decoded(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: float(value) if value in ("NaN", "Infinity", "-Infinity") else value
        for name, value in record.items()
    }


def _finite(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# -------------------------------------------------------------------------------------------- sinks


@dataclass(frozen=True)
class _Sink:
    """One destination of metrics besides metrics.jsonl."""

    write: Callable[[int, Mapping[str, float], float], None]  # step, values, unix time
    close: Callable[[], None]


def _tensorboard_sink(folder: Path, last_step: int) -> _Sink:
    # Not tensorboardX's SummaryWriter: it passes events through a queue to a thread, so a kill
    # loses them, and a thread that dies (no space left) blocks the loop.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary

    # TensorBoard reads a folder's files in the order of their names. A name carries seconds only:
    # the suffix keeps two quick restarts apart.
    folder.mkdir(parents=True, exist_ok=True)
    earlier = len(list(folder.glob("events.out.tfevents.*")))
    file = EventsWriter(str(folder / "events"), f".{earlier:05d}")
    # From the step of a START on, TensorBoard hides what earlier files hold.
    start = SessionLog(status=SessionLog.START)
    file.write_event(Event(wall_time=time.time(), step=last_step + 1, session_log=start))
    file.flush()

    def write(step: int, values: Mapping[str, float], now: float) -> None:
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        file.write_event(Event(wall_time=now, step=step, summary=Summary(value=points)))
        file.flush()

    return _Sink(write, file.close)


def _wandb_sink(project: str, run_dir: Path, run_config: Mapping[str, Any] | None) -> _Sink:
    wandb = _import_extra("wandb")
    run = wandb.init(
        project=project,
        name=run_dir.name,
        id=_tracker_id(run_dir),
        dir=str(run_dir),
        resume="allow",
        config=dict(run_config or {}),
    )
    # W&B's own step may never go back, but ours does after a restore: chart against a metric.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return _Sink(
        write=lambda step, values, _: run.log({"step": step, **values}),
        close=run.finish,
    )


def _trackio_sink(project: str, run_dir: Path, run_config: Mapping[str, Any] | None) -> _Sink:
    trackio = _import_extra("trackio")
    trackio.init(
        project=project,
        name=f"{run_dir.name}-{_tracker_id(run_dir)}",  # a run is found again by its name
        resume="allow",
        config=dict(run_config or {}),
    )
    return _Sink(
        write=lambda step, values, _: trackio.log(dict(values), step=step),
        close=trackio.finish,
    )


def _import_extra(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"logging.{name}: the package {name} is not installed; "
            f"pip install 'jaxlm[{name}]', or remove logging.{name}"
        ) from None


def _tracker_id(run_dir: Path) -> str:
    """An id that all processes of a run share, also after a resume."""
    path = run_dir / "tracker_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
