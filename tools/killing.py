"""Runs that are killed and resumed until they have ended: the part of `tools/chaos.py` that kills.

    verdict = Killing(scenario, folder, launcher, seed=0).run(kills=9)

A scenario trains one config undisturbed, twice: both must be equal, and how long a start, a save
and the end take is learnt from it. Then a run is started, killed at an instant that the plan aims
at, resumed (by `train` and `resume` in turn), killed again, until it ends, and is compared. The
plan of a run names phases in the order of a run; what a kill found is looked up afterwards.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from killing_scenarios import ENDING, Before, Scenario
from warm import FreshLauncher, Group, Process, WarmLauncher
from watching import Watched, differences, written

POLL_SECONDS = 0.001
LIMIT_SECONDS = 300.0  # a process that runs for longer does not end


@dataclass(frozen=True)
class Kill:
    """The aim of one kill, and the state that it found."""

    aimed: str
    phase: str
    step: int  # the last step that the run had reported
    resumes_at: int  # the last checkpoint
    launcher: str


@dataclass
class Verdict:
    """The outcome of a scenario."""

    scenario: str
    kills: list[Kill] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    runs: int = 0
    equal: int = 0
    steps: int = 0
    seconds: float = 0.0
    param_sha256: str = ""

    @property
    def phases(self) -> dict[str, int]:
        return dict(Counter(kill.phase for kill in self.kills))


class Killing:
    """Runs of one scenario under kills."""

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        launcher: WarmLauncher | None,
        *,
        seed: int = 0,
        fresh_every: int = 0,
        report: Callable[[str], None] = print,
    ) -> None:
        self.scenario, self.folder, self.launcher = scenario, folder, launcher
        self.fresh_every, self.report = fresh_every, report
        self.random = random.Random(f"{seed} {scenario.name}")
        self.verdict = Verdict(scenario.name)
        self.attempts, self.launched = 0, ""
        self.start_seconds = self.save_seconds = self.step_seconds = self.end_seconds = 1.0

    def run(self, kills: int) -> Verdict:
        began = time.time()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.reference = self.folder / "reference"
        if self._prepared():
            self._undisturbed(self.reference)
        if not self.verdict.problems:
            twin = self.folder / "twin"
            self._undisturbed(twin)  # learns how long things take once they are compiled
            self._compare(twin)
        while len(self.verdict.kills) < kills and not self.verdict.problems:
            self.verdict.runs += 1
            path = self.folder / f"killed{self.verdict.runs}"
            if self._killed_run(path, kills - len(self.verdict.kills)) and self._compare(path):
                self.verdict.equal += 1
            if self.verdict.runs > 2 * kills + 3:
                self.verdict.problems.append("the runs end before they are killed")
        self.verdict.seconds = round(time.time() - began, 1)
        return self.verdict

    # ------------------------------------------------------------------------------------ the runs

    def _prepared(self) -> bool:
        """Whether what has to run before the scenario has ended well."""
        for number, words in enumerate(self.scenario.first):
            path = self.folder / f"first{number}"
            if not self._check_end(self._launch([*words], path.with_suffix(".log")), path):
                return False
        return True

    def _undisturbed(self, path: Path) -> None:
        began, watched = time.time(), Watched(path)
        process = self._start(path)
        self._until(process, lambda: watched.step() > 0)
        first = time.time()
        self.start_seconds = first - began
        saves = []
        while process.running():
            self._until(process, lambda: watched.saving() > 0)
            saving = time.time()
            self._until(process, lambda: watched.saving() == 0)
            saves.append(time.time() - saving)
        if self._check_end(process, path):
            self.verdict.steps = watched.step()
            folder = path / "checkpoints" / f"{watched.committed():08d}"
            last = written(folder / "checksums.json")
            self.end_seconds = time.time() - last
            self.step_seconds = (last - first) / max(self.verdict.steps - 1, 1)
            self.save_seconds = sorted(saves)[len(saves) // 2]

    def _killed_run(self, path: Path, kills: int) -> bool:
        """One run from its first start to its end; whether it came to it."""
        watched, planned = Watched(path), list(self._plan(kills))
        while True:
            process = self._start(path)
            if planned and self._strike(process, watched, *planned.pop(0)):
                continue
            if not self._check_end(process, path):
                return False
            if not planned:
                return True
            planned = [plan for plan in planned if plan[0] in ("result", "report")][:1]
            if not planned:
                return True

    def _plan(self, kills: int) -> Iterator[tuple[str, int]]:
        """(phase, step) of a run's kills in the order of the run; phases by turns."""
        count = min(kills, self.scenario.per_run)
        ends = min(len(self.scenario.ending), count // 2)
        working = [
            self.scenario.working[i % len(self.scenario.working)] for i in range(count - ends)
        ]
        self.random.shuffle(working)
        for i, phase in enumerate(working):
            share = (i + self.random.random()) / len(working)
            yield phase, int(share * 0.9 * self.verdict.steps)
        for phase in self.scenario.ending[len(self.scenario.ending) - ends :]:
            yield phase, self.verdict.steps

    def _strike(self, process: Process | Group, watched: Watched, phase: str, aim: int) -> bool:
        """Waits for the instant and kills; False where the run ended before."""
        base = watched.committed()
        aim = max(aim, base + 1)
        reported, started = watched.step(), time.time()
        begun = [False]  # the ledger is cut back to the checkpoint when training continues

        def step() -> int:
            """The last step of this process; what an earlier one reported does not count."""
            now = watched.step()
            if now != reported and not begun[0]:
                begun[0] = True
                self.start_seconds = min(self.start_seconds, time.time() - started)
            return now if begun[0] else base

        def since(name: str) -> bool:
            return written(watched.path / name) > started

        if phase == "start":
            self._pause(process, self.start_seconds)
        elif phase == "step":
            self._until(process, lambda: step() >= aim and not watched.saving())
            self._pause(process, 2 * self.step_seconds)
        elif phase == "save":
            self._until(process, lambda: watched.saving() >= aim and step() > base)
            self._pause(process, self.save_seconds)
        elif phase == "rollback":
            over = max(aim, self.scenario.rolled_back)
            self._until(process, lambda: watched.broken() or step() >= over)
            self._pause(process, 0.3)
        elif phase == "commit":
            self._until(process, lambda: watched.committed() >= aim)
            self._pause(process, POLL_SECONDS)
        elif phase == "evaluation":
            if base == self.verdict.steps:
                process.running(0.7 * self.start_seconds)
            self._until(process, lambda: watched.committed() == self.verdict.steps)
            self._pause(process, 0.8 * self.end_seconds)
        elif phase == "result":
            self._until(process, lambda: since("result.json"))
            self._pause(process, 0.02)
        else:
            self._until(process, lambda: since("report.html"))
            self._pause(process, 0.005)
        if not process.running():
            return False
        just, saving, broken = watched.just_committed(), watched.saving(), watched.broken()
        process.kill()
        if process.wait(LIMIT_SECONDS) != -9:
            return False
        if since("report.html"):
            found = "report"
        elif since("result.json"):
            found = "result"
        elif watched.committed() == self.verdict.steps and (step() > base or phase in ENDING):
            found = "commit" if just else "evaluation"
        elif broken and begun[0]:
            found = "rollback"
        elif step() <= base:
            found = "start"
        else:
            found = "save" if saving else "commit" if just else "step"
        self._count(Kill(phase, found, watched.step(), watched.committed(), self.launched))
        return True

    def _count(self, kill: Kill) -> None:
        self.verdict.kills.append(kill)
        self.report(
            f"{self.scenario.name}: kill {len(self.verdict.kills):3}  {kill.launcher:5}  aimed at "
            f"{kill.aimed:10}  found {kill.phase:10}  after step {kill.step:4}  "
            f"resumes at {kill.resumes_at:4}"
        )

    def _until(self, process: Process | Group, condition: Callable[[], bool]) -> None:
        """Returns when the condition holds or the process has ended."""
        limit = time.time() + LIMIT_SECONDS
        while not condition() and process.running(POLL_SECONDS):
            if time.time() > limit:
                raise TimeoutError(f"{self.scenario.name}: a process does not come to its end")

    def _pause(self, process: Process | Group, most: float) -> None:
        process.running(self.random.random() * most)

    def _start(self, path: Path) -> Process | Group:
        """The run's next process or processes; every n-th is a fresh interpreter."""
        self.attempts += 1
        arguments = ["train", self.scenario.config, *self._settings(path)]
        if (path / "config.yaml").is_file() and self.attempts % 2:
            arguments = ["resume", str(path)]
        return self._launch(arguments, path.with_suffix(".log"))

    def _settings(self, path: Path) -> list[str]:
        return [*self.scenario.settings, f"run_dir={path}", "train.ledger=true"]

    def _launch(self, arguments: list[str], log: Path) -> Process | Group:
        before = self._before(log.with_suffix(""))
        fresh = self.launcher is None or (
            self.fresh_every > 0 and self.attempts % self.fresh_every == self.fresh_every // 2
        )
        launcher = FreshLauncher() if fresh or self.launcher is None else self.launcher
        self.launched = launcher.name
        if self.scenario.processes == 1:
            return launcher.start(arguments, log, before=before)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        common = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "JAXLM_COORDINATOR": address,
            "JAXLM_NUM_PROCESSES": str(self.scenario.processes),
        }
        calls = (("strikes:keep_compiled",), *before)
        members = [
            launcher.start(arguments, log, common | {"JAXLM_PROCESS_ID": str(index)}, calls)
            for index in range(self.scenario.processes)
        ]
        return Group(members, self._victims)

    def _before(self, path: Path) -> Before:
        return self.scenario.before

    def _victims(self, count: int) -> list[int]:
        """One of the processes, or all of them."""
        chosen = self.random.randrange(count + 1)
        return list(range(count)) if chosen == count else [chosen]

    # ------------------------------------------------------------------------------- comparison

    def _check_end(self, process: Process | Group, path: Path) -> bool:
        code = process.wait(LIMIT_SECONDS)
        if code != 0:
            log = path.with_suffix(".log").read_text(errors="replace").splitlines()
            self.verdict.problems += [f"{path.name}: exit code {code}", *log[-15:]]
        return code == 0

    def _compare(self, path: Path) -> bool:
        """Whether the run is the undisturbed one, in its files and in its weights as stored."""
        found = differences(self.reference, path)
        if not found:
            result = json.loads((self.reference / "result.json").read_text())
            want = self.verdict.param_sha256 = result["final"]["param_sha256"]
            stored = self._stored_sha256(path)
            if stored != want:
                found.append(f"{path.name}: the last checkpoint holds {stored}, undisturbed {want}")
        self.verdict.problems += found
        return not found

    def _stored_sha256(self, path: Path) -> str:
        """The checksum that `jaxlm info` computes from the bytes on disk."""
        out = path.with_suffix(".info")
        (self.launcher or FreshLauncher()).start(["info", str(path), "--json"], out).wait(60)
        text = out.read_text()
        return json.loads(text[text.index("{") :]).get("param_sha256", "nothing")
