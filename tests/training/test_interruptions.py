"""Signals, damage, a full disk, a second start: the run ends as it would have without them."""

from __future__ import annotations

import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import QUIET, ROOT, Commands, Watched, records, result, until, use_environment

pytestmark = pytest.mark.chaos

CONFIG = ROOT / "configs" / "smoke" / "transformer.yaml"
STEPS, EVERY = 80, 20
SETTINGS = (
    *QUIET,
    f"train.steps={STEPS}",
    f"checkpoint.every_steps={EVERY}",
    "eval.every_steps=null",
    "logging.print_every_steps=1000",
)
# large enough that a save takes a while, even on a quick machine
LARGE = ("model.hidden_size=256", "model.num_layers=4", "model.attention.num_heads=8")


@pytest.fixture(scope="module")
def jaxlm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    folder = tmp_path_factory.mktemp("commands")
    with use_environment(folder / "cache"):
        yield Commands(folder)


@pytest.fixture(scope="module")
def reference(jaxlm: Commands) -> Path:
    """A run that nothing happened to."""
    run = jaxlm.folder / "reference"
    code, text = train(jaxlm, run)
    assert code == 0, text
    return run


def train(jaxlm: Commands, run: Path, *overrides: str) -> tuple[int, str]:
    return jaxlm.run("train", CONFIG, *SETTINGS, f"run_dir={run}", *overrides)


def assert_same(run: Path, reference: Path) -> None:
    """The same weights, and the same told of every step, once."""
    assert result(run)["final"]["param_sha256"] == result(reference)["final"]["param_sha256"]
    for name in ("metrics.jsonl", "ledger.jsonl"):
        assert records(run / name) == records(reference / name)
    assert [r["step"] for r in records(run / "ledger.jsonl")] == list(range(1, STEPS + 1))


def copy_of(run: Path, target: Path) -> Path:
    return shutil.copytree(run, target)


# ---------------------------------------------------------------------------------- after its end


def test_a_run_killed_after_its_result_gets_its_report(
    jaxlm: Commands, reference: Path, tmp_path: Path
) -> None:
    run = copy_of(reference, tmp_path / "run")
    (run / "report.html").unlink()
    code, text = jaxlm.run("resume", run)
    assert code == 0 and "done already" in text and f"report: {run}/report.html" in text
    assert (run / "report.html").read_text().startswith("<!")


def test_a_damaged_result_is_made_again_from_the_last_checkpoint(
    jaxlm: Commands, reference: Path, tmp_path: Path
) -> None:
    run = copy_of(reference, tmp_path / "run")
    path = run / "result.json"
    path.write_text(path.read_text().replace(f'"step": {STEPS}', f'"step": {STEPS},', 1))
    text = jaxlm.run("info", run)[1]
    assert "result.json: damaged" in text and "Traceback" not in text
    code, text = jaxlm.run("resume", run)
    assert code == 0 and "result.json: damaged" in text and "Traceback" not in text
    assert result(run) == result(reference)


@pytest.mark.parametrize("verb", ["train", "resume"])
def test_a_finished_run_is_left_as_it_is(jaxlm: Commands, reference: Path, verb: str) -> None:
    def files() -> dict[str, tuple[int, bytes]]:
        kept = {"log.txt", "run.lock"}
        paths = (p for p in sorted(reference.rglob("*")) if p.is_file() and p.name not in kept)
        return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}

    before = files()
    code, text = train(jaxlm, reference) if verb == "train" else jaxlm.run(verb, reference)
    assert code == 0 and f"done already: step {STEPS} of {STEPS}" in text
    assert result(reference)["final"]["param_sha256"] in text
    assert files() == before


def test_another_config_is_refused_with_a_diff(jaxlm: Commands, reference: Path) -> None:
    code, text = train(jaxlm, reference, "seed=2", "optimizer.beta1=0.5")
    assert code == 2
    assert re.search(r"seed\b.*1.*2", text) and re.search(r"beta1\b.*0\.5", text)
    code, text = train(jaxlm, reference, "train.prefetch=0", "logging.every_steps=3")
    assert code == 0, "what cannot change the weights may be changed"


# ------------------------------------------------------------------------------------------ signals


def test_a_signal_saves_and_the_run_continues(
    jaxlm: Commands, reference: Path, tmp_path: Path
) -> None:
    """Ctrl-C, then a closed terminal; SIGTERM: test_resume."""
    run, reached = tmp_path / "run", 0
    watched, words = Watched(run), ("train", CONFIG, *SETTINGS, f"run_dir={run}")
    for number in (signal.SIGINT, signal.SIGHUP):
        process, log = jaxlm.start(*words)
        until(lambda: watched.step() >= reached + 5, process)  # noqa: B023
        process.kill(number)
        assert process.wait() == 75, log.read_text()
        before, reached = reached, watched.step()
        assert before + 5 <= reached < STEPS and watched.committed() == reached
        assert f"after step {reached} of {STEPS}, saved" in log.read_text()
        assert before == 0 or f"resume <- checkpoint {before}" in log.read_text()
        words = ("resume", run)
    code, text = jaxlm.run("resume", run)
    assert code == 0 and f"checkpoint {reached}" in text
    assert_same(run, reference)


def test_a_signal_before_the_first_step_stops_without_a_traceback(
    jaxlm: Commands, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process, log = jaxlm.start("train", CONFIG, *SETTINGS, *LARGE, f"run_dir={run}")
    until(lambda: "restore order" in log.read_text(), process)
    process.kill(signal.SIGTERM)
    assert process.wait() == 75
    text = log.read_text()
    assert "stopped by SIGTERM" in text or "stopped by a signal" in text
    assert "Traceback" not in text


def test_a_second_writer_is_refused_and_a_second_signal_ends_immediately(
    jaxlm: Commands, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("train", CONFIG, *SETTINGS, *LARGE, f"run_dir={run}", "train.steps=100000")
    process, log = jaxlm.start(*arguments)
    until(lambda: Watched(run).step() >= 1, process)
    ledger = (run / "ledger.jsonl").read_text()
    code, text = jaxlm.run(*arguments)
    assert code == 2 and f"being written by pid {process.pid}" in text
    assert (run / "ledger.jsonl").read_text().startswith(ledger)

    process.kill(signal.SIGTERM)
    until(lambda: "again to stop immediately" in log.read_text(), process)
    process.kill(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM


# ------------------------------------------------------------------------------------------- damage


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def arrays_of(run: Path, step: int) -> Path:
    """The file with the most of a checkpoint's arrays."""
    files = (p for p in (run / "checkpoints" / f"{step:08d}").rglob("*") if p.is_file())
    return max(files, key=lambda p: p.stat().st_size)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    jaxlm: Commands, reference: Path, tmp_path: Path
) -> None:
    """Other damages are found by the same checksums: train/test_checkpoint.py."""
    run = copy_of(reference, tmp_path / "run")
    file = arrays_of(run, STEPS)
    flip_a_bit(file)
    code, text = jaxlm.run("resume", run)
    assert code == 0, text
    assert f"checkpoint {STEPS}: damaged" in text and file.name in text and "set aside" in text
    assert f"resume <- checkpoint {STEPS - EVERY}" in text
    assert (run / "checkpoints" / f"{STEPS:08d}.corrupt").is_dir()
    assert_same(run, reference)


def test_nothing_but_damaged_checkpoints_is_an_error_and_no_fresh_start(
    jaxlm: Commands, reference: Path, tmp_path: Path
) -> None:
    run = copy_of(reference, tmp_path / "run")
    (run / "result.json").unlink()  # killed before its end
    for folder in (run / "checkpoints").iterdir():
        flip_a_bit(arrays_of(run, int(folder.name)))
    kept = (run / "ledger.jsonl").read_bytes(), (run / "metrics.jsonl").read_bytes()
    for command in (["resume", run], ["train", CONFIG, *SETTINGS, f"run_dir={run}"]):
        code, text = jaxlm.run(*command)
        assert code == 2 and "no good checkpoint" in text, text
    assert all(".corrupt" in folder.name for folder in (run / "checkpoints").iterdir())
    assert ((run / "ledger.jsonl").read_bytes(), (run / "metrics.jsonl").read_bytes()) == kept


# ---------------------------------------------------------------------------------------- full disk


def test_a_save_that_fails_is_reported_and_the_last_one_has_its_exit_code(
    jaxlm: Commands, reference: Path, tmp_path: Path
) -> None:
    """A limit on the size of files, set from outside, replaces a full disk: it needs no rights."""
    run = tmp_path / "run"
    process, log = jaxlm.start("train", CONFIG, *SETTINGS, f"run_dir={run}")
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, hard))
    until(lambda: f"checkpoint {EVERY}: not saved" in log.read_text(), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    until(lambda: Watched(run).committed() >= 2 * EVERY, process)  # it continues, and saves again
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, hard))
    assert process.wait() == 74, log.read_text()
    text = log.read_text()
    assert "the last checkpoint was not written" in text and "file too large" in text
    assert not (run / "result.json").exists()
    code, text = jaxlm.run("resume", run)
    assert code == 0, text
    assert_same(run, reference)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(jaxlm: Commands, reference: Path, small_disk: Path) -> None:
    """No step and no line of the ledger; of the metrics those are missing that found no room."""
    run, filler = small_disk / "run", small_disk / "filler"
    process, log = jaxlm.start("train", CONFIG, *SETTINGS, f"run_dir={run}")
    until(lambda: Watched(run).step() >= 3, process)
    fill(filler)
    until(lambda: "not saved, no space left" in log.read_text(), process)
    filler.unlink()
    assert process.wait() == 0, log.read_text()
    assert "Logging error" not in log.read_text()
    assert result(run)["final"]["param_sha256"] == result(reference)["final"]["param_sha256"]
    assert records(run / "ledger.jsonl") == records(reference / "ledger.jsonl")
    told, all_told = records(run / "metrics.jsonl"), records(reference / "metrics.jsonl")
    assert told == [record for record in all_told if record in told] and told[-1] == all_told[-1]


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return
