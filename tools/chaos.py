"""Kills a run again and again at random instants, and looks whether anything was lost.

    python tools/chaos.py configs/smoke/transformer.yaml --kills 100 train.steps=200
    python tools/chaos.py configs/smoke/lstm.yaml --kills 8 --json

It trains the config once undisturbed. Then it trains it again and sends SIGKILL at instants spread
over the run: while it starts and compiles, inside steps, inside saves (a `.saving` folder is
there), right after a commit. Each time the run is resumed, until all kills are made and the run has
ended. The parameters' SHA-256, every logged loss and the ledger of sample ids must be those of the
undisturbed run. The exit code is 1 where they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from warm import ROOT, FreshLauncher, Process, WarmLauncher

PHASES = ("step", "save", "commit", "start")
POLL_SECONDS = 0.001
COMMIT_SECONDS = 0.05  # a kill so soon after a commit counts as one right after it
CLOCKS = {"time", "train/tokens_per_second", "train/mfu", "train/data_wait"} | {
    "train/seconds_per_step"
}


@dataclass(frozen=True)
class Kill:
    """Where one kill was aimed at, and what it found."""

    aimed: str
    phase: str
    step: int  # the last step that the run had told of
    resumes_at: int  # the last checkpoint
    launcher: str


@dataclass
class Verdict:
    """What came of it."""

    config: str
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    runs: int = 0
    steps: int = 0
    seconds: float = 0.0
    param_sha256: str = ""

    @property
    def phases(self) -> dict[str, int]:
        return dict(Counter(kill.phase for kill in self.kills))


class Watched:
    """A run directory as it looks from outside, cheap enough to look at all the time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._step = 0

    def step(self) -> int:
        """The last step in the ledger; 0 before the first."""
        try:
            status = (self.path / "ledger.jsonl").stat()
            if self._seen != (status.st_ino, status.st_size):
                text = (self.path / "ledger.jsonl").read_bytes()
                self._seen = (status.st_ino, status.st_size)
                self._step = json.loads(text[: text.rfind(b"\n")].splitlines()[-1])["step"]
        except (OSError, ValueError, IndexError):
            self._step = 0
        return self._step

    def committed(self) -> int:
        """The newest checkpoint; 0 before the first."""
        return max((int(n) for n in self._names() if n.isdecimal()), default=0)

    def saving(self) -> int:
        """The step of the save under way; 0 where there is none."""
        found = (re.fullmatch(r"(\d+)\.saving\d*", name) for name in self._names())
        return max((int(match[1]) for match in found if match), default=0)

    def just_committed(self) -> bool:
        folder = self.path / "checkpoints" / f"{self.committed():08d}"
        try:
            return time.time() - (folder / "checksums.json").stat().st_mtime < COMMIT_SECONDS
        except OSError:
            return False

    def _names(self) -> list[str]:
        try:
            return [entry.name for entry in (self.path / "checkpoints").iterdir()]
        except OSError:
            return []


class Chaos:
    """Runs of one config under kills; `verdict` says how it went."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        # Small programs are cached as well: starts are quicker, and kills hit the cache's writes.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        self.random = random.Random(options.seed)
        self.verdict = Verdict(options.config)
        self.launchers = [WarmLauncher()] if options.fresh_every != 1 else []
        self.start_seconds: dict[str, float] = {}
        self.save_seconds = self.step_seconds = 0.0

    def run(self) -> Verdict:
        started, sources = time.time(), newest_source()
        self.reference = self.folder / "reference"
        self._undisturbed()
        while len(self.verdict.kills) < self.options.kills and not self.verdict.problems:
            self.verdict.runs += 1
            path = self.folder / f"killed{self.verdict.runs}"
            if self._killed_run(path):
                self._compare(path)
        for launcher in self.launchers:
            launcher.__exit__()
        if self.verdict.problems and newest_source() != sources:
            self.verdict.problems.insert(0, "jaxlm's own code was changed meanwhile: start again")
        self.verdict.seconds = round(time.time() - started, 1)
        return self.verdict

    # ------------------------------------------------------------------------------------ the runs

    def _undisturbed(self) -> None:
        """The reference; how long starts, steps and saves take is learnt from it."""
        process, watched = self._start(self.reference), Watched(self.reference)
        began = time.time()
        self._until(process, lambda: watched.step() > 0)
        self.start_seconds["warm"] = time.time() - began
        began, first, saves = time.time(), watched.step(), []
        while process.running():
            self._until(process, lambda: watched.saving() > 0)
            saving = time.time()
            self._until(process, lambda: watched.saving() == 0)
            saves.append(time.time() - saving)
        self._check_end(process, self.reference)
        self.verdict.steps = watched.step()
        self.step_seconds = (time.time() - began) / max(self.verdict.steps - first, 1)
        self.save_seconds = sorted(saves)[len(saves) // 2]

    def _killed_run(self, path: Path) -> bool:
        """One run from its first start to its end; whether it came to it."""
        watched, planned = Watched(path), list(self._plan())
        while True:
            process = self._start(path)
            left = self.options.kills - len(self.verdict.kills)
            if left and planned:
                phase, aim = planned.pop(0)
                before = watched.committed()
                if self._strike(process, watched, phase, aim, before):
                    process.wait()
                    continue
            return self._check_end(process, path)

    def _plan(self) -> Iterator[tuple[str, int]]:
        """(phase, step) of the kills still to make, in the order of the run; phases by turns."""
        count = self.options.kills - len(self.verdict.kills)
        for i in range(count):
            share = (i + self.random.random()) / count
            yield PHASES[i % len(PHASES)], int(share * 0.9 * self.verdict.steps)

    def _strike(self, process: Process, watched: Watched, phase: str, aim: int, base: int) -> bool:
        """Waits for the instant and kills; False where the run ended before."""
        aim = max(aim, base + 1)
        told, started = watched.step(), time.time()
        begun = [False]  # the ledger is cut back to the checkpoint when training goes on

        def step() -> int:
            """The last step of this process; what an earlier one told does not count."""
            now = watched.step()
            if now != told and not begun[0]:
                begun[0] = True
                self.start_seconds[self.launched] = time.time() - started
            return now if begun[0] else base

        if phase == "start":
            self._pause(process, self.start_seconds.get(self.launched, self.start_seconds["warm"]))
        elif phase == "step":
            self._until(process, lambda: step() >= aim and not watched.saving())
            self._pause(process, 2 * self.step_seconds)
        elif phase == "save":
            self._until(process, lambda: watched.saving() >= aim and step() > base)
            self._pause(process, self.save_seconds)
        else:
            self._until(process, lambda: watched.committed() >= aim)
            self._pause(process, POLL_SECONDS)
        if not process.running():
            return False
        just = watched.just_committed()
        process.kill()
        if process.wait() != -9:
            return False
        if step() <= base:
            found = "start"
        elif watched.saving():
            found = "save"
        else:
            found = "commit" if just else "step"
        kill = Kill(phase, found, step(), watched.committed(), self.launched)
        self.verdict.kills.append(kill)
        if not self.options.json:
            print(
                f"kill {len(self.verdict.kills):3}  {kill.launcher:5}  aimed at {phase:6}  "
                f"found {found:6}  after step {kill.step:4}  resumes at {kill.resumes_at:4}",
                flush=True,
            )
        return True

    def _until(self, process: Process, condition: Callable[[], bool]) -> None:
        """Returns when the condition holds or the process has ended."""
        while not condition() and process.running(POLL_SECONDS):
            pass

    def _pause(self, process: Process, most: float) -> None:
        process.running(self.random.random() * most)

    def _start(self, path: Path) -> Process:
        """The run's next process; every n-th is a fresh interpreter."""
        self.attempts = getattr(self, "attempts", -1) + 1
        every = self.options.fresh_every
        fresh = bool(every) and (self.attempts + 1) % every == 0
        launcher = FreshLauncher() if fresh else self.launchers[0]
        self.launched = launcher.name
        settings = [*self.options.overrides, f"run_dir={path}", "train.ledger=true"]
        arguments = ["train", self.options.config, *settings]
        if (path / "config.yaml").is_file() and self.attempts % 2:
            arguments = ["resume", str(path)]
        return launcher.start(arguments, path.with_suffix(".log"))

    # ------------------------------------------------------------------------------- comparison

    def _check_end(self, process: Process, path: Path) -> bool:
        code = process.wait()
        if code != 0:
            log = path.with_suffix(".log").read_text(errors="replace").splitlines()
            self.verdict.problems += [f"{path.name}: exit code {code}", *log[-15:]]
        return code == 0

    def _compare(self, path: Path) -> None:
        """Everything that a kill could have lost or doubled."""
        problems = self.verdict.problems
        want, got = (result(folder)["param_sha256"] for folder in (self.reference, path))
        self.verdict.param_sha256 = want
        if want != got:
            problems.append(f"{path.name}: param_sha256 {got}, undisturbed {want}")
        stored = self._stored_sha256(path)
        if stored != want:
            problems.append(f"{path.name}: the last checkpoint holds {stored}, undisturbed {want}")
        for name in ("metrics.jsonl", "ledger.jsonl"):
            wanted, found = records(self.reference / name), records(path / name)
            if wanted != found:
                problems.append(f"{path.name}: {name} differs: {first_difference(wanted, found)}")
        steps = [record["step"] for record in records(path / "ledger.jsonl")]
        if steps != list(range(1, self.verdict.steps + 1)):
            problems.append(f"{path.name}: the ledger's steps are not 1 to {self.verdict.steps}")

    def _stored_sha256(self, path: Path) -> str:
        """What `jaxlm info` computes from the bytes on disk."""
        out = path.with_suffix(".info")
        launcher = self.launchers[0] if self.launchers else FreshLauncher()
        launcher.start(["info", str(path), "--json"], out).wait()
        text = out.read_text()
        return json.loads(text[text.index("{") :])["param_sha256"]


def newest_source() -> float:
    """When the code was last changed: processes of two versions need not agree to the last bit."""
    return max(path.stat().st_mtime for path in (ROOT / "jaxlm").rglob("*.py"))


def result(path: Path) -> dict[str, Any]:
    return json.loads((path / "result.json").read_text())["final"]


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a jsonl file without clocks; starts and resumes are no metrics."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in CLOCKS}
        for line in lines
        if "event" not in line
    ]


def first_difference(wanted: list, found: list) -> str:
    for a, b in zip(wanted, found, strict=False):
        if a != b:
            return f"{a} became {b}"
    return f"{len(wanted)} lines became {len(found)}"


def render(verdict: Verdict) -> str:
    phases = ", ".join(f"{verdict.phases.get(phase, 0)} {phase}" for phase in PHASES)
    steps = len({kill.step for kill in verdict.kills})
    lines = [
        f"{len(verdict.kills)} kills of {verdict.config} in {verdict.seconds:.0f} s: {phases}; "
        f"after {steps} different steps of {verdict.steps}, in {verdict.runs} runs",
        *verdict.problems,
        f"FAILED: {len(verdict.problems)} problems"
        if verdict.problems
        else f"nothing lost: parameters {verdict.param_sha256[:16]}..., losses and ledger are "
        "those of the run that was never killed",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument(
        "--fresh-every",
        type=int,
        default=5,
        help="every n-th process is a fresh interpreter, the others forks of a warm one; 0: none",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the runs are kept; default: a temporary one"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="jaxlm-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    verdict = Chaos(options, folder).run()
    if options.json:
        print(json.dumps({**asdict(verdict), "phases": verdict.phases}, indent=1))
    else:
        print(render(verdict))
    if options.folder is None and not verdict.problems:
        shutil.rmtree(folder)
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
