"""A line that was changed, lost or put in from another run is found; old files go on to be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jaxlm.core.config import UserError
from jaxlm.core.files import read_sealed, write_sealed
from jaxlm.runs.files import folder_problems, read_own, read_result, write_ends, write_own
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import Identity, Record, digest_of, read_record
from jaxlm.runs.lines import Seals, cut_lines, damage, last_seal, read_lines, truncate_jsonl

OLD = '{"step": 1, "loss": 4.5}\n{"step": 2, "loss": 4.25}\n'


def write(path: Path, steps: range, text: str = "") -> None:
    """The old lines of `text`, then sealed ones."""
    path.write_text(text)
    seal = Seals(path)
    with path.open("a") as file:
        for step in steps:
            file.write(seal(json.dumps({"step": step, "text": "é\u2028", "loss": 4 + 1 / step})))


@pytest.mark.parametrize("old", ["", OLD])
def test_lines_are_json_and_all_of_them_are_sound(tmp_path: Path, old: str) -> None:
    path = tmp_path / "a.jsonl"
    write(path, range(3, 7), old)
    assert damage(path) is None and damage(path, last_seal(path)) is None
    assert [line.record["step"] for line in read_lines(path)] == [1, 2, 3, 4, 5, 6][
        -4 - 2 * bool(old) :
    ]
    assert list(json.loads(path.read_text().splitlines()[-1]))[-1] == "seal"
    assert "seal" not in read_lines(path)[-1].record


def test_each_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, range(1, 4))
    last, data = last_seal(path), path.read_bytes()
    for bit in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        assert damage(path, last) is not None, bit


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda lines: lines[:1] + lines[2:], 2),
        (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
        (lambda lines: lines[:2] + lines[1:], 3),
        (lambda lines: [*lines[:2], '{"step": 9}\n', *lines[2:]], 3),
        (lambda lines: [lines[0].replace("5.0", "6.0"), *lines[1:]], 1),
        (lambda lines: lines[:-1], None),
        (lambda lines: [], None),
    ],
)
def test_lost_moved_and_added_lines_are_found(
    tmp_path: Path, change: Callable[[list[str]], list[str]], first: int | None
) -> None:
    path = tmp_path / "a.jsonl"
    write(path, range(1, 5))
    last, lines = last_seal(path), path.read_text().split("\n")[:-1]
    path.write_text("".join(change([line + "\n" for line in lines])))
    found = damage(path, last)
    assert found is not None and "a.jsonl: " in found
    assert (f"the first is line {first} " if first else "missing at its end") in found


def test_what_stays_after_a_cut_is_sealed_and_continues(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, range(1, 7), OLD)
    with path.open("a") as file:
        file.write('{"step": 7, "lo')  # torn by a kill
    assert damage(path) is None
    assert truncate_jsonl(path, 4) == 3
    assert cut_lines(path, lambda line: line["step"] == 3) == 1  # not the last: the next follows 2
    seal = Seals(path)
    with path.open("a") as file:
        file.write(seal('{"step": 5}'))
    assert damage(path) is None
    assert [line.record["step"] for line in read_lines(path)] == [1, 2, 1, 2, 4, 5]


def test_a_damaged_line_stays_damaged_after_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, range(1, 5))
    path.write_text(path.read_text().replace("5.0", "6.0"))
    assert truncate_jsonl(path, 3) == 1
    assert "1 damaged lines, the first is line 1" in (damage(path) or "")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """The files beside the checkpoints, as a run leaves them."""
    run = RunDir(tmp_path)
    identity = Identity(run_id="a" * 32)
    Record(identity=identity, config="").write(run)
    for path in (run.environment, run.marks, run.data_manifest, run.timing):
        write_own(path, {"cores": 2}, identity.run_id)
    write(run.metrics, range(1, 5))
    write(run.samples, range(1, 3))
    write_ends(run, identity.run_id)
    return run


FILES = ("environment", "marks", "data_manifest", "timing", "ends", "metrics", "samples")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["delete", "empty", "digit", "other run", "folder"])
def test_damage_of_every_file_is_named(run: RunDir, name: str, what: str) -> None:
    assert folder_problems(run) == []
    path: Path = getattr(run, name)
    if what == "other run":
        if path.suffix == ".jsonl":
            write(path, range(5, 9))
        else:
            write_own(path, read_own(run, path), "b" * 32)
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "digit":
        path.write_text(path.read_text().replace("2", "3", 1))
    else:
        path.unlink()
        if what == "folder":
            path.mkdir()
    (problem,) = folder_problems(run)
    assert path.name in problem and (
        "other run" not in what or "of another run" in problem or path.suffix == ".jsonl"
    )


def test_marks_of_an_earlier_start_are_named(run: RunDir) -> None:
    record, _ = read_record(run)
    assert record is not None
    replace(record, marks=digest_of({"train.steps": "command line"})).write(run)
    (problem,) = folder_problems(run)
    assert "marks.json: is not what the last start wrote" in problem
    write_own(run.marks, {"train.steps": "command line"}, record.identity.run_id)
    assert folder_problems(run) == []


def test_runs_of_older_versions_are_taken_as_they_are(run: RunDir) -> None:
    for path in (run.environment, run.marks, run.data_manifest, run.timing):
        write_sealed(path, {"cores": 2})
    for path in (run.metrics, run.samples):
        path.write_text(OLD)
    run.ends.unlink()
    assert folder_problems(run) == []


def test_a_result_of_another_run_or_step_is_not_believed(run: RunDir) -> None:
    (run.checkpoints / "00000004").mkdir(parents=True)
    write_own(run.result, {"step": 4, "final": {"eval/loss": 1.0}}, "a" * 32)
    assert read_result(run) == ({"step": 4, "final": {"eval/loss": 1.0}}, "")
    assert read_sealed(run.result)["run_id"] == "a" * 32
    write_own(run.result, {"step": 4, "final": {}}, "b" * 32)
    assert "of another run (bbbbbbbb" in read_result(run)[1]
    write_own(run.result, {"step": 8, "final": {}}, "a" * 32)
    assert read_result(run)[0] == {} and "is of step 8" in read_result(run)[1]
    run.result.unlink()
    assert read_result(run, total=5) == ({}, "") and "is missing" in read_result(run, total=4)[1]


def test_a_line_that_is_not_json_stops_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, range(1, 4))
    path.write_bytes(path.read_bytes().replace(b"\n", b"\0", 1))
    with pytest.raises(UserError, match=r"a.jsonl:1: is not JSON"):
        truncate_jsonl(path, 2)
