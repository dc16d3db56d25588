"""The run's lock, against real processes; writes that cannot tear; lines dropped on resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.config import UserError
from jaxlm.core.files import read_sealed, write_atomic, write_sealed
from jaxlm.runs import checkpoints as checkpoint_dir
from jaxlm.runs.folder import RunDir
from jaxlm.runs.lines import truncate_jsonl
from jaxlm.training.outcome import read_result

HOLDER = """
import sys, time
from jaxlm.runs.folder import RunDir
with RunDir(sys.argv[1]).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "locked\n"
    return child


def test_a_second_writer_is_told_who_holds_the_run(tmp_path: Path) -> None:
    child = hold(tmp_path / "run")
    try:
        told = pytest.raises(UserError, match=rf"pid {child.pid} on \S+ since .*another run folder")
        with told, RunDir(tmp_path / "run").lock():
            pass
        assert f"pid {child.pid} " in RunDir(tmp_path / "run").lock_file.read_text()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    with RunDir(tmp_path / "run").lock():  # a killed holder holds nothing
        text = RunDir(tmp_path / "run").lock_file.read_text()
    assert text.startswith(f"pid {os.getpid()} ")


def test_lock_ends_with_its_block_and_other_ranks_take_none(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "new" / "run")
    with run.lock(), run.lock(process_index=1):
        assert run.path.is_dir()
        with pytest.raises(UserError), run.lock():
            pass
    with run.lock():
        pass


def test_paths_are_those_of_the_run_folder() -> None:
    run = RunDir("runs/a")
    assert run.checkpoints == Path("runs/a/checkpoints")
    assert run.metrics == Path("runs/a/metrics.jsonl")


def write_lines(path: Path, steps: list, tail: str = "") -> None:
    path.write_text("".join(json.dumps({"step": s, "é": "x"}) + "\n" for s in steps) + tail)


def test_lines_after_the_step_and_a_torn_tail_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [1, 2, 2, 3, 4], '{"step": 2, "tra')
    assert truncate_jsonl(path, 2) == 3
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 2]
    before = path.stat().st_mtime_ns
    assert truncate_jsonl(path, 2) == 0
    assert path.stat().st_mtime_ns == before  # nothing to drop, nothing written


def test_a_whole_last_line_without_its_newline_is_completed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [1], '{"step": 2}')
    assert truncate_jsonl(path, 5) == 0
    assert path.read_text().endswith('{"step": 2}\n')


def test_lines_without_a_step_stay_and_a_missing_file_stays_missing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"note": 1}\n{"step": 9}\n')
    assert truncate_jsonl(path, 3) == 1
    assert path.read_text() == '{"note": 1}\n'
    assert truncate_jsonl(tmp_path / "none.jsonl", 3) == 0
    assert not (tmp_path / "none.jsonl").exists()


def test_a_bad_line_in_the_middle_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [1], 'rubbish\n{"step": 7}\n')
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics.jsonl:2: is not JSON"):
        truncate_jsonl(path, 3)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_stray_files_of_dead_writers_go_with_the_lock(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    alive = tmp_path / f".report.html.{os.getppid()}.tmp"
    gone = [tmp_path / f".result.json.{pid}.tmp" for pid in (dead.pid, os.getpid(), 10**30)]
    kept = [alive, tmp_path / ".notes.tmp", tmp_path / "a.1.tmp"]
    for path in (*gone, *kept):
        path.write_text("{")
    with run.lock():
        assert not any(path.exists() for path in gone)
        assert all(path.exists() for path in kept)
    os.utime(alive, (0, 0))  # so old that its process id is another's by now
    with run.lock():
        assert not alive.exists()


VALUE = {"step": 4, "final": {"eval/loss": 1.25, "é": "ü"}, "list": [1, 2]}


def test_a_sealed_file_comes_back_and_any_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_sealed(path, VALUE)
    assert read_sealed(path) == VALUE
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        data = bytearray(good)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            assert read_sealed(path) == VALUE  # a blank between two values may be another blank
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"3", b"\xff\xfe", b"[" * 100_000, b'{"step": 4}', b'{"a": 1e999}'],
)
def test_a_bad_result_is_one_line_and_not_believed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "result.json").write_bytes(content)
    result, problem = read_result(RunDir(tmp_path))
    assert result == {} and "result.json: " in problem and "jaxlm resume" in problem
    assert "\n" not in problem


def test_a_result_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    assert read_result(RunDir(tmp_path)) == ({}, "")
    (tmp_path / "result.json").mkdir()
    result, problem = read_result(RunDir(tmp_path))
    assert result == {} and "is a directory" in problem


@pytest.mark.parametrize("name", ["00000040", "99999999999999999999", "000000040", "00000041"])
def test_what_is_misplaced_among_checkpoints_is_not_a_traceback(tmp_path: Path, name: str) -> None:
    """A file, or a folder without checksums; what no step is called is left alone."""
    for kind in ("file", "folder", "checksums"):
        folder = tmp_path / kind / "checkpoints"
        folder.mkdir(parents=True)
        path = folder / name
        path.write_text("x") if kind == "file" else path.mkdir()
        if kind == "checksums":
            (path / "checksums.json").mkdir()
        lines: list[str] = []
        reader = CheckpointReader(folder, report=lines.append)
        reader.list()
        if len(name) == 8:
            with pytest.raises(UserError, match="no good checkpoint"):
                reader.latest()
            assert len(lines) == 1 and "damaged, checksums.json: " in lines[0]
            checkpoint_dir.remove(path)
            assert list(folder.iterdir()) == []
        else:
            assert reader.latest() is None and path.exists()
