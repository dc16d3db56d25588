"""metrics.jsonl is strict JSON, TensorBoard holds the same, and a resume doubles nothing."""

from __future__ import annotations

import json
import math
import resource
import struct
import sys
import types

import numpy as np
import pytest

from jaxlm.core.config import UserError
from jaxlm.runs.trackers import (
    LoggingConfig,
    MetricsWriter,
    extent,
    finalize,
    read_metrics,
    series,
)

FILES_ONLY = LoggingConfig(tensorboard=False)


def strict(line):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_each_line_is_strict_json_and_reads_back(tmp_path):
    values = {"train/loss": float("nan"), "a": float("inf"), "b": -math.inf, "c": np.float32(0.5)}
    with MetricsWriter(tmp_path, FILES_ONLY) as writer:
        writer.write(np.int64(3), values)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # before close: flushed
    first, second = map(strict, lines)
    assert first["event"] == "start" and first["step"] == 0
    assert second.pop("time") > 1e9
    assert len(second.pop("seal")) == 12
    assert second == {"step": 3, "train/loss": "NaN", "a": "Infinity", "b": "-Infinity", "c": 0.5}
    record = read_metrics(tmp_path / "metrics.jsonl")[1]
    assert math.isnan(record["train/loss"])
    assert (record["a"], record["b"], record["c"]) == (math.inf, -math.inf, 0.5)


def test_resume_takes_back_what_is_beyond_the_restored_step(tmp_path):
    with MetricsWriter(tmp_path, FILES_ONLY) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"x": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "x"')  # killed in the middle of a line
    with MetricsWriter(tmp_path, FILES_ONLY, resume_step=20) as writer:
        writer.write(30, {"x": 31})
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert series(records, "x") == ([10, 20, 30], [10, 20, 31])
    assert [r["step"] for r in records if r.get("event") == "resume"] == [20]


def test_the_first_line_says_what_happened(tmp_path):
    event = {"event": "rollback", "seen": 8, "batches": [5, 6]}
    with MetricsWriter(tmp_path, FILES_ONLY):
        pass
    with MetricsWriter(tmp_path, FILES_ONLY, resume_step=0, event=event):
        pass
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first["event"] == "start", "a rollback to step 0 keeps the start"
    assert second.pop("time") > 1e9 and second == {"step": 0, **event}


def test_what_final_figures_are_of_in_words():
    assert extent({"batches": 2, "of": 9}) == "2 of 9 batches of the validation split"
    assert extent({"batches": 9, "of": 9}) == "the whole validation split (9 batches)"
    assert extent({"batches": 1, "of": 1}) == "the whole validation split (1 batch)"
    assert extent(None) == "the validation split"


def test_a_start_from_nothing_leaves_nothing_of_an_earlier_process(tmp_path):
    for _ in range(2):
        with MetricsWriter(tmp_path, FILES_ONLY) as writer:
            writer.write(0, {"x": 1.0})
            writer.write(10, {"x": 2.0})
    assert series(read_metrics(tmp_path / "metrics.jsonl"), "x") == ([0, 10], [1.0, 2.0])


def test_reading_drops_a_torn_end_and_names_other_damage(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1, "s": "a\u2028b"}\n{"step": 2}\n{"step": 3', encoding="utf-8")
    assert [r["step"] for r in read_metrics(path)] == [1, 2]
    path.write_bytes(b'{"step": 1}\n\xff\x00\n[1]\n{"step": 4}\n')
    with pytest.warns(UserWarning, match="skipped 2 damaged lines, the first is line 2"):
        assert [r["step"] for r in read_metrics(path)] == [1, 4]


def test_a_full_disk_does_not_end_the_run(tmp_path):
    """A limit on the size of files replaces a full disk: the next line does not fit."""
    writer = MetricsWriter(tmp_path, FILES_ONLY)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.warns(UserWarning, match="File too large") as warned:
        try:
            size = (tmp_path / "metrics.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            for step in range(3):
                writer.write(step, {"x": 1.0})
            writer.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(warned) == 1


def test_finalize_divides_last():
    pairs = {"loss": (np.float32(6), np.float32(4)), "none": (0.0, 0.0), "table": (np.eye(2), 2.0)}
    values = finalize(pairs)
    assert values["loss"] == 1.5
    assert math.isnan(values["none"])
    assert "table" not in values


# -------------------------------------------------------------------------------------- TensorBoard


def events(folder):
    """(step, {tag: value} or "START") of the event files in the order TensorBoard reads them.

    A record is: length uint64, its CRC, the bytes, their CRC.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == SessionLog.START:
                yield event.step, "START"
            elif event.HasField("summary"):
                yield event.step, {v.tag: v.simple_value for v in event.summary.value}


def test_tensorboard_holds_the_same_and_a_resume_purges(tmp_path):
    with MetricsWriter(tmp_path, LoggingConfig()) as writer:
        writer.write(10, {"train/loss": 2.5, "train/mfu": 0.25})
        assert len(list(events(tmp_path / "tensorboard"))) == 2  # on disk before close
        writer.write(20, {"train/loss": math.nan})
    with MetricsWriter(tmp_path, LoggingConfig(), resume_step=10) as writer:
        writer.write(20, {"train/loss": 1.5})
    found = list(events(tmp_path / "tensorboard"))
    assert [step for step, _ in found] == [0, 10, 20, 11, 20]
    assert found[1][1] == {"train/loss": 2.5, "train/mfu": 0.25}
    assert math.isnan(found[2][1]["train/loss"])
    assert found[3] == (11, "START")  # steps from 11 on of the earlier file are hidden
    assert found[4][1] == {"train/loss": 1.5}


# ------------------------------------------------------------------------------------------- extras


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_tracker_names_its_extra(tmp_path, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"pip install 'jaxlm\[{name}\]'") as error:
        MetricsWriter(tmp_path, LoggingConfig(**{name: "project"}))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "metrics.jsonl").exists()


class FakeRun:
    def __init__(self, log):
        self._log = log

    def define_metric(self, name, step_metric=None):
        self._log.append(("define", name, step_metric))

    def log(self, values):
        self._log.append(("log", values))

    def finish(self):
        self._log.append(("finish",))


def test_wandb_takes_up_the_same_run(tmp_path, monkeypatch):
    log = []

    def init(**options):
        log.append(("init", options))
        return FakeRun(log)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    config = LoggingConfig(tensorboard=False, wandb="project")
    for resume_step in (None, 10):
        with MetricsWriter(
            tmp_path, config, resume_step=resume_step, run_config={"a": 1}
        ) as writer:
            writer.write(20, {"x": 1.0})
    inits = [entry[1] for entry in log if entry[0] == "init"]
    assert inits[0] == inits[1]
    assert inits[0]["project"] == "project" and inits[0]["config"] == {"a": 1}
    assert log[3:5] == [("log", {"step": 20, "x": 1.0}), ("finish",)]


def test_trackio_takes_up_the_same_run(tmp_path, monkeypatch):
    log = []
    fake = types.SimpleNamespace(
        init=lambda **options: log.append(options),
        log=lambda values, step: log.append((values, step)),
        finish=lambda: log.append("finish"),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    config = LoggingConfig(tensorboard=False, trackio="project")
    for resume_step in (None, 10):
        with MetricsWriter(tmp_path, config, resume_step=resume_step) as writer:
            writer.write(20, {"x": 1.0})
    assert log[0] == log[3] and log[0]["resume"] == "allow"
    assert log[1:3] == [({"x": 1.0}, 20), "finish"]
