"""Processes of this machine: stand-in ones that fail in every way, and real ones that train."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxlm import cli
from jaxlm.core.exit_codes import DONE, HUNG, INTERRUPTED, LOST, MISTAKE
from jaxlm.launch.group import GroupRunner
from jaxlm.launch.job import Job
from jaxlm.launch.steps import Group, Member
from jaxlm.launch.target import load_target
from tests.programs import launcher
from tests.several import in_two

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "configs/smoke/transformer.yaml")

# A process of a run: `attempts` counts its starts, `saves` makes a checkpoint of that step.
PREAMBLE = """
import os, signal, sys, time
number, folder = int(sys.argv[1]), sys.argv[2]
path = os.path.join(folder, f"attempts{number}")
attempt = len(open(path).read()) if os.path.exists(path) else 0
open(path, "a").write("x")

def save(step):
    os.makedirs(os.path.join(folder, "checkpoints", f"{step:08d}"), exist_ok=True)
"""


class Run:
    """A group of stand-in processes, and what came of it."""

    def __init__(self, folder: Path, program: str, count: int = 3, max_restarts: int = 2) -> None:
        self.folder, self.told = folder, []
        members = [
            Member(
                argv=(sys.executable, "-IS", "-c", PREAMBLE + program, str(i), str(folder)),
                coordinator="WHERE",
                log=folder / f"log{i}.txt",
            )
            for i in range(count)
        ]
        group = Group(why="", members=tuple(members), run_dir=folder, max_restarts=max_restarts)
        self.runner = GroupRunner(group, self.told.append, lambda _: None)

    def run(self) -> int:
        code, self.progress = self.runner.run()
        return code

    def attempts(self, number: int = 0) -> int:
        return len((self.folder / f"attempts{number}").read_text())

    def until(self, attempts: int) -> None:
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            paths = [self.folder / f"ready{i}" for i in range(len(self.runner._group.members))]
            if all(path.exists() for path in paths):
                return
            time.sleep(0.01)


def test_all_end_well(tmp_path: Path) -> None:
    program = "save(7); port = os.environ['WHERE'].rpartition(':')[2]; print(int(port) > 0)"
    run = Run(tmp_path, program)
    assert run.run() == DONE and run.progress == 7
    assert [run.attempts(i) for i in range(3)] == [1, 1, 1]
    assert (tmp_path / "log1.txt").read_text() == "True\n"


def test_a_killed_one_ends_the_others_and_all_start_again(tmp_path: Path) -> None:
    program = """
if attempt == 0:
    if number == 1:
        while not all(os.path.exists(os.path.join(folder, f"attempts{i}")) for i in (0, 2)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""
    run = Run(tmp_path, program)
    began = time.monotonic()
    assert run.run() == DONE
    assert time.monotonic() - began < 10
    assert [run.attempts(i) for i in range(3)] == [2, 2, 2]
    told = "\n".join(run.told)
    assert "process 1 was ended by SIGKILL" in told and "log1.txt" in told
    assert "ended the others: processes 0, 2" in told and "starting again" in told


@pytest.mark.parametrize("code", [LOST, HUNG, INTERRUPTED, 1, 134])
def test_what_a_new_start_fixes_is_started_again_as_long_as_the_budget_lasts(
    tmp_path: Path, code: int
) -> None:
    run = Run(tmp_path, f"sys.exit({code})", count=1, max_restarts=2)
    assert run.run() == code
    assert run.attempts() == 3
    assert "no newer checkpoint in 2 restarts" in run.told[-1]


def test_a_newer_checkpoint_renews_the_budget(tmp_path: Path) -> None:
    """Six failures in two's, with a checkpoint between: more than the budget in all."""
    run = Run(tmp_path, "save(attempt // 2 + 1); sys.exit(1 if attempt < 6 else 0)", count=1)
    assert run.run() == DONE
    assert run.attempts() == 7
    (tmp_path / "attempts0").unlink()
    stuck = Run(tmp_path, "sys.exit(1 if attempt < 6 else 0)", count=1)
    assert stuck.run() == 1 and stuck.attempts() == 3  # an old checkpoint is not progress


@pytest.mark.parametrize("code", [MISTAKE, 65, 74, 130])
def test_what_has_to_be_fixed_is_not_started_again(tmp_path: Path, code: int) -> None:
    """Also where another process told of it first, with a code of its own."""
    run = Run(tmp_path, f"sys.exit({LOST} if number == 0 else (time.sleep(0.3), {code})[1])")
    assert run.run() == code
    assert run.attempts() == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_nothing_starts_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    program = f"""
def end(*_):
    save(5)
    sys.exit({INTERRUPTED})

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, lambda *_: os._exit(99))
open(os.path.join(folder, f"ready{{number}}"), "w")
for _ in range(600):
    time.sleep(0.1)  # a signal just before a sleep is handled after it
"""
    run, before = Run(tmp_path, program), signal.getsignal(number)

    def strike() -> None:
        run.until(1)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=strike)
    thread.start()
    assert run.run() == INTERRUPTED and run.progress == 5
    thread.join()
    assert [run.attempts(i) for i in range(3)] == [1, 1, 1]
    assert signal.getsignal(number) is before


def test_a_second_signal_kills(tmp_path: Path) -> None:
    program = """
signal.signal(signal.SIGTERM, lambda *_: open(os.path.join(folder, "told"), "w"))
open(os.path.join(folder, f"ready{number}"), "w")
while True:
    time.sleep(1)
"""
    run = Run(tmp_path, program, count=1)

    def strike() -> None:
        run.until(1)
        os.kill(os.getpid(), signal.SIGTERM)
        while not (tmp_path / "told").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=strike)
    thread.start()
    assert run.run() == 128 + signal.SIGKILL
    thread.join()
    assert run.attempts() == 1


STUBBORN = """
signal.signal(signal.SIGTERM, lambda *_: open(os.path.join(folder, "told"), "a").write("x"))
open(os.path.join(folder, f"ready{number}"), "w")
while not os.path.exists(os.path.join(folder, "over")):
    time.sleep(0.01)
save(3)
sys.exit(75)
"""


def test_a_closed_terminal_never_kills_but_a_second_ctrl_c_does(tmp_path: Path) -> None:
    """Hangups come twice, and one may come before or after a first SIGTERM: all save to the end."""

    def after(folder: Path, *numbers: signal.Signals) -> tuple[int, str]:
        folder.mkdir()
        run = Run(folder, STUBBORN, count=1)

        def strike() -> None:
            run.until(1)
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(0.05)
            (folder / "over").touch()

        thread = threading.Thread(target=strike)
        thread.start()
        code = run.run()
        thread.join()
        return code, (folder / "told").read_text()

    hangup, stop = signal.SIGHUP, signal.SIGTERM
    assert after(tmp_path / "hangups", hangup, hangup, hangup) == (INTERRUPTED, "x")
    assert after(tmp_path / "both", hangup, stop, hangup) == (INTERRUPTED, "x")
    assert after(tmp_path / "killed", hangup, stop, signal.SIGINT) == (128 + signal.SIGKILL, "x")


def test_under_nohup_a_hangup_is_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = Run(tmp_path, "os.kill(os.getppid(), signal.SIGHUP); save(4)", count=1)
        assert run.run() == DONE and run.progress == 4
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# ----------------------------------------------------------------------------------- launch configs


def members(name: str, *settings: str) -> tuple[Member, ...]:
    plan = load_target(name, settings).plan(Job.of({"run_dir": "runs/a"}, None))
    group = plan.attempt[-1]
    assert isinstance(group, Group)
    return group.members


def test_processes_of_this_machine_find_each_other() -> None:
    four = members("local", "processes=4", "devices=2")
    assert [m.environment["JAXLM_PROCESS_ID"] for m in four] == ["0", "1", "2", "3"]
    assert {m.coordinator for m in four} == {"JAXLM_COORDINATOR"}
    for member in four:
        counts = [w for w in member.environment["XLA_FLAGS"].split() if "device_count" in w]
        assert counts == ["--xla_force_host_platform_device_count=2"]
    assert four[0].log is None and four[3].log == Path("runs/a/processes/3.txt")
    (alone,) = members("local")
    assert alone.environment == {} and alone.coordinator is None


def test_gpus_of_this_machine() -> None:
    (one,) = members("gpu_host")
    assert one.environment == {"JAX_PLATFORMS": "cuda"}
    (some,) = members("gpu_host", "gpus=[2, 3]")
    assert some.environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    two = members("gpu_host", "gpus=[2, 3]", "process_per_gpu=true")
    assert [m.environment["CUDA_VISIBLE_DEVICES"] for m in two] == ["2", "3"]
    assert [m.environment["JAXLM_NUM_PROCESSES"] for m in two] == ["2", "2"]


# --------------------------------------------------------------------------------------- real ones


# what else may hang on few cores is found soon, and starts again
SETTINGS = (
    "train.steps=12",
    "checkpoint.every_steps=4",
    "eval.every_steps=null",
    "train.hang_timeout=20",
    "sample.prompts=[]",
    "eval.at_end=false",
    "logging.tensorboard=false",
)
TRAIN = "import sys; from jaxlm.cli import main; sys.exit(main(sys.argv[1:]))"


class Fork:
    """A fork of a warm process in place of a `Popen`: for starts that are not the first."""

    def __init__(self, member: Member, port: str, log: Path) -> None:
        assert member.argv[1:4] == ("-u", "-m", "jaxlm") and member.coordinator is not None
        environment = {**member.environment, member.coordinator: f"localhost:{port}"}
        self._process = launcher().start(list(member.argv[4:]), log, environment)
        self.pid = self._process.pid
        self.kill = self.send_signal = self._process.kill
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return None if self._process.running() else self.wait()

    def wait(self) -> int:
        self.returncode = self._process.wait()
        return self.returncode


@pytest.mark.chaos
@pytest.mark.slow
def test_a_run_with_a_killed_process_ends_in_the_weights_of_one_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two processes of two devices, whose first start is that of a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    code, outputs = in_two(TRAIN, "train", SMOKE, f"run_dir={straight}", *SETTINGS)
    assert code == DONE, outputs
    started: list[subprocess.Popen | Fork] = []
    start, over = GroupRunner.start_member, threading.Event()

    def start_member(self: GroupRunner, member: Member, port: str) -> subprocess.Popen | Fork:
        log = tmp_path / f"again{len(started)}.txt"
        again = len(started) >= 2
        started.append(Fork(member, port, log) if again else start(self, member, port))
        return started[-1]

    def strike() -> None:
        """SIGKILL to process 1 after a step that follows the first checkpoint."""
        ledger = killed / "ledger.1.jsonl"
        while not over.is_set():
            if ledger.exists() and '"step": 6' in ledger.read_text():
                started[-1].kill()  # of the newest two
                return
            time.sleep(0.001)

    monkeypatch.setattr(GroupRunner, "start_member", start_member)
    thread = threading.Thread(target=strike)
    thread.start()
    try:
        code = cli.main(
            ["launch", "local", SMOKE, f"run_dir={killed}", *SETTINGS]
            + ["--set", "processes=2", "--set", "devices=2", "--set", "max_restarts=6"]
        )
    finally:
        over.set()
    thread.join()
    told = capsys.readouterr()
    assert code == DONE, told
    assert "process 1 was ended by SIGKILL" in told.out, told
    assert "starting again from checkpoint" in told.out
    assert len(started) >= 4

    def ends_in(run: Path) -> tuple[str, list[str]]:
        final = json.loads((run / "result.json").read_text())["final"]
        ledgers = sorted(run.glob("ledger*.jsonl"))
        assert len(ledgers) == 2
        return final["param_sha256"], [path.read_text() for path in ledgers]

    assert ends_in(killed) == ends_in(straight)


def test_a_dry_run_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """What it prints, given to bash, starts the same processes with the same environment."""
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/bash\n[ "$1" = -c ] && { echo 4321; exit; }\n'
        'echo "$JAXLM_COORDINATOR $JAXLM_PROCESS_ID $XLA_FLAGS $*"'
        f' > {shlex.quote(str(tmp_path))}/told$JAXLM_PROCESS_ID\ncp "${{@: -1}}" got.yaml\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    words = ["launch", "local", SMOKE, "--dry-run", "--set", "processes=2", "--set", "devices=3"]
    assert cli.main([*words, "run_dir=a b"]) == DONE
    script = capsys.readouterr().out
    assert not (tmp_path / ".jaxlm-launch").exists(), "a dry run writes nothing"
    subprocess.run(["bash", "-euc", script], check=True)
    flags = "--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count=3"
    for number in range(2):
        told = (tmp_path / f"told{number}").read_text()
        assert told == (
            f"localhost:4321 {number} {flags} -u -m jaxlm train .jaxlm-launch/a-b/run.yaml\n"
        )
    assert (tmp_path / "a b/processes").is_dir()
    from jaxlm.run import load_run

    found, want = load_run(tmp_path / "got.yaml"), load_run(SMOKE, ["run_dir=a b"])
    assert found.config == want.config
