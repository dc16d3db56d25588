"""A lost screen costs the screen: real pipes, a full disk, missing streams, in real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlm.core.config import UserError
from jaxlm.core.files import described, disk_errors, write_atomic

WORK = """
import importlib
import sys
from jaxlm import cli
from pathlib import Path

def work(**words):
    from rich.console import Console
    console = Console()
    for i in range(1000):
        print("a line of some length, number", i, flush=i % 7 == 0)
        console.print("by rich")
        print("a line of the other stream", file=sys.stderr)
    Path(sys.argv[2]).write_text("done")
    return 0

verb = sys.argv[1]
importlib.import_module(f"jaxlm.cli.{verb}").command.callback = work
sys.exit(cli.main([verb, "nothing"]))
"""


def run(verb: str, done: Path, redirection: str) -> subprocess.CompletedProcess[str]:
    """A shell's command with the exit code of the program, not that of the pipe's reader."""
    script = f'"$0" -c "$1" {verb} "$2" {redirection}'
    if "|" in redirection:
        script += "; exit ${PIPESTATUS[0]}"
    command = ["bash", "-c", script, sys.executable, WORK, str(done)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


LOST = {
    "a closed pipe": "| head -1",
    "both in a closed pipe": "2>&1 | head -1",
    "a full disk": "> /dev/full",
    "both on a full disk": "> /dev/full 2>&1",
    "no streams": ">&- 2>&- <&-",
}


@pytest.mark.parametrize("redirection", LOST.values(), ids=LOST)
def test_work_continues_to_its_end(tmp_path: Path, redirection: str) -> None:
    done = tmp_path / "done"
    ended = run("train", done, redirection)
    assert ended.returncode == 0, ended.stderr
    assert done.read_text() == "done"
    assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr
    if redirection == "> /dev/full":
        lost = "warning: stdout: no space left on device; its text is lost, the work continues"
        assert ended.stderr.count(lost) == 1


def test_an_answer_ends_quietly_with_its_reader(tmp_path: Path) -> None:
    done = tmp_path / "done"
    ended = run("info", done, "2>/dev/null | head -1")
    assert ended.returncode == 0 and ended.stderr == "" and not done.exists()
    assert run("info", done, "2>&1 | head -1").returncode == 0


def test_an_answer_that_finds_no_room_is_an_error(tmp_path: Path) -> None:
    ended = run("info", tmp_path / "done", "> /dev/full")
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 2 and "standard output: no space left on device" in line
    assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr


def test_errors_of_the_disk_are_one_line_and_others_are_not_described(tmp_path: Path) -> None:
    with pytest.raises(OSError) as long:
        (tmp_path / ("a" * 300)).read_text()
    line = described(long.value)
    assert line is not None and "file name too long; use a shorter name" in line
    assert len(line) < 300
    assert described(OSError("16 requested and 0 written"), "here") is not None
    with pytest.raises(FileNotFoundError) as missing:
        write_atomic(tmp_path / "none" / "a.txt", "text")
    line = described(missing.value)
    assert line is not None and line.startswith(f"{tmp_path / 'none'}: there is no such folder; ")
    assert described(OSError(os.EX_USAGE, "odd")) is None
    assert described(ConnectionResetError(104, "reset")) is None


MISPLACED = {
    "tensorboard": lambda path: path.mkdir(exist_ok=True),  # a file where a folder belongs
    "ledger.jsonl": lambda path: path.open("a"),  # a folder where a file belongs
    "checkpoints": lambda path: (path / "00000004").mkdir(),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_a_misplaced_file_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir() if name == "ledger.jsonl" else path.write_text("x")
    says = pytest.raises(UserError, match=rf"{name}.*: .*; .*out of the way, then run")
    with says as error, disk_errors(tmp_path):
        MISPLACED[name](path)
    assert "\n" not in str(error.value)
