"""The kinds of runs that `tools/chaos.py` kills, besides a plain one: see `Killing`.

KINDS[scenario.kind](scenario, folder, launcher, seed=0).run(kills=9)
"""

from __future__ import annotations

import os
from pathlib import Path

from killing import LIMIT_SECONDS, Kill, Killing
from killing_scenarios import ENDING, PREPARING, Before
from warm import Group, Process
from watching import Watched, strays


class KillingWorkers(Killing):
    """The worker process that makes batches is killed: the run ends in one line, or continues.

    What is started afterwards must end in the undisturbed run's weights.
    """

    def _strike(self, process: Process | Group, watched: Watched, phase: str, aim: int) -> bool:
        if phase in ENDING:
            return super()._strike(process, watched, phase, aim)
        base = watched.committed()
        aim = min(max(aim, base + 1), self.verdict.steps - 1)
        reported, log = watched.step(), watched.path.with_suffix(".log")
        length = log.stat().st_size if log.exists() else 0
        if phase == "start":
            self._until(process, lambda: bool(workers(process.pid)))
            self._pause(process, self.start_seconds / 2)
        else:
            self._until(process, lambda: watched.step() >= aim and watched.step() != reported)
        victims = workers(process.pid)
        for victim in victims:
            os.kill(victim, 9)
        if not victims or not process.running():
            return False
        code = process.wait(60)
        text = log.read_bytes()[length:].decode(errors="replace")
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        if code == 0:
            return False
        if len(lines) != 1 or "Traceback" in text:
            tail = text.splitlines()[-15:]
            self.verdict.problems += [f"{watched.path.name}: code {code} without one line", *tail]
        self._count(Kill(phase, "worker", watched.step(), watched.committed(), self.launched))
        return True


class KillingPreparation(Killing):
    """`data prepare` on a cold cache is killed, and started again until the data is there.

    The store and the tokenizer must be the undisturbed ones byte for byte, nothing else may be
    left, and the run that is trained on them must end in the undisturbed weights.
    """

    def _killed_run(self, path: Path, kills: int) -> bool:
        cache = self._cache(path)
        count = min(kills, self.scenario.per_run)
        plan = [self.scenario.working[i % len(self.scenario.working)] for i in range(count)]
        for phase in sorted(plan, key=PREPARING.index):
            self.attempts += 1
            words = ["data", "prepare", self.scenario.config, *self._settings(path)]
            words += ["--workers", "2"] if self.attempts % 4 == 0 else []
            process = self._launch(words, path.with_suffix(".log"))
            if self._strike_data(process, cache, phase):
                continue
            if not self._check_end(process, path):
                return False
        return self._check_end(self._start(path), path)

    def _strike_data(self, process: Process | Group, cache: Path, phase: str) -> bool:
        """Waits for the instant and kills; False where the data was there before."""
        stores = cache / "stores"
        before, more = done(cache), self.random.randrange(1, 9)

        def found() -> str:
            partial = next(iter(stores.glob("*.partial")), None)
            if partial is None:
                training = any(cache.glob("tokenizers/.training-*"))
                return "tokenizer" if training else "start"
            if partial.with_suffix("").exists():
                return "removal"
            if (partial / "store" / "manifest.json").exists():
                return "sealed"
            return "joining" if (partial / "store").exists() else "parts"

        def reached() -> bool:
            """The phase, or a later one: what an earlier process has done is not done again."""
            now = found()
            if now == phase == "parts":
                return done(cache) >= before + more
            return now != "start" and PREPARING.index(now) >= PREPARING.index(phase)

        self._until(process, reached)
        self._pause(process, 0.01 if phase in ("tokenizer", "parts") else 0.003)
        if not process.running():
            return False
        seen = found()
        process.kill()
        if process.wait(LIMIT_SECONDS) != -9:
            return False
        if seen == "start" and any(p.suffix == "" for p in stores.glob("*")):
            seen = "complete"
        self._count(Kill(phase, seen, 0, done(cache), self.launched))
        return True

    def _compare(self, path: Path) -> bool:
        wanted, found = stored(self._cache(self.reference)), stored(self._cache(path))
        problems = [
            f"{path.name}: {name} is not the undisturbed one"
            for name in sorted({*wanted, *found})
            if wanted.get(name) != found.get(name)
        ]
        for folder in ("stores", "tokenizers"):
            left = strays(self._cache(path) / folder)
            problems += [f"{path.name}: {folder}/{name} was left lying about" for name in left]
        self.verdict.problems += problems
        return super()._compare(path) and not problems

    def _settings(self, path: Path) -> list[str]:
        return [*super()._settings(path), f"cache_dir={self._cache(path)}"]

    def _cache(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.cache")


class KillingWrites(Killing):
    """A run is killed between its changes of files: before its first, second, third one, ...

    Each process counts its own. First the changes of a start and of saves are tried in turn, then
    those of the end: after the last commit each process comes to the end again.
    """

    number = 0  # the change before which the next process is killed; 0: none
    START = 16  # changes of a start, which are not tried again before those of the end

    def _killed_run(self, path: Path, kills: int) -> bool:
        watched, ending = Watched(path), False
        self.number = 1
        for _ in range(min(kills, self.scenario.per_run)):
            process = self._start(path)
            if process.wait(LIMIT_SECONDS) != -9:
                if not self._check_end(process, path):
                    return False
                if ending:
                    break
                (path / "result.json").unlink()  # as a kill just before it leaves the run
                self.number, ending = self.START, True
                continue
            done = watched.committed() == self.verdict.steps
            step, phase = watched.step(), "end" if ending else "write"
            self._count(Kill("write", phase, step, watched.committed(), self.launched))
            self.number += 1 + self.random.randrange(3)
            if done and not ending:
                self.number, ending = self.START, True
        self.number = 0
        return self._check_end(self._start(path), path)

    def _before(self, path: Path) -> Before:
        return (("strikes:at_change", str(path), self.number),) if self.number else ()


KINDS = {
    "run": Killing,
    "worker": KillingWorkers,
    "preparation": KillingPreparation,
    "writes": KillingWrites,
}


def workers(pid: int) -> list[int]:
    """The processes that make batches for a run."""
    found = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    except OSError:
        pass
    return found


def done(cache: Path) -> int:
    """The number of parts of a store that are whole."""
    return sum(part.name.isdecimal() for part in cache.glob("stores/*.partial/parts/*"))


def stored(cache: Path) -> dict[str, bytes]:
    """The bytes of the token stores and tokenizers of a cache."""
    files = (f for name in ("stores", "tokenizers") for f in (cache / name).rglob("*"))
    return {
        str(file.relative_to(cache)): file.read_bytes()
        for file in files
        if file.is_file() and file.suffix != ".lock"
    }
