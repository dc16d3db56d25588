"""Reads a run folder from outside, while it is written and after the run has ended.

    watched = Watched(Path("runs/a"))
    watched.step(), watched.committed(), watched.saving()
    differences(Path("runs/reference"), Path("runs/a"))     # [] where nothing was lost

Nothing of jaxlm is imported: the check is independent.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

COMMIT_SECONDS = 0.05  # a kill so soon after a commit counts as one right after it
CLOCKS = {"time", "seal", "train/tokens_per_second", "train/mfu", "train/data_wait"} | {
    "train/seconds_per_step"
}
SECONDS = re.compile(r"/seconds$")  # of a baseline, wherever it is measured
STRAY = re.compile(r"^\.|\.tmp$|\.partial$|\.saving\d*$|\.removing$|\.corrupt$|\.broken$|^core")


class Watched:
    """A run folder under way, cheap enough to look at all the time."""

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
        """The step of the save under way; 0 if nothing is being saved."""
        found = (re.fullmatch(r"(\d+)\.saving\d*", name) for name in self._names())
        return max((int(match[1]) for match in found if match), default=0)

    def broken(self) -> bool:
        """Whether a rollback is under way: checkpoints are set aside, and none was saved since."""
        return any(name.endswith(".broken") for name in self._names())

    def just_committed(self) -> bool:
        folder = self.path / "checkpoints" / f"{self.committed():08d}"
        return time.time() - written(folder / "checksums.json") < COMMIT_SECONDS

    def _names(self) -> list[str]:
        try:
            return [entry.name for entry in (self.path / "checkpoints").iterdir()]
        except OSError:
            return []


def written(path: Path) -> float:
    """The time when a file was written, in unix seconds; 0 where it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def differences(reference: Path, path: Path) -> list[str]:
    """Everything that an ended run could have lost, doubled or left lying about."""
    problems = []
    for name in ("result.json", "report.html"):
        if not (path / name).is_file():
            problems.append(f"{path.name}: {name} was not written")
    if problems:
        return problems
    if not (path / "report.html").read_text().rstrip().endswith("</html>"):
        problems.append(f"{path.name}: report.html is not whole")
    wanted, found = (
        timeless(json.loads((folder / "result.json").read_text())) for folder in (reference, path)
    )
    for name in sorted({*wanted, *found} - {"run_id", "self_sha256"}):  # each run has its own id
        if wanted.get(name) != found.get(name):
            problems.append(
                f"{path.name}: result.json: {name} {found.get(name)}, undisturbed "
                f"{wanted.get(name)}"
            )
    ledgers = {file.name for file in (*reference.glob("ledger*"), *path.glob("ledger*"))}
    for name in ("metrics.jsonl", "samples.jsonl", *sorted(ledgers)):
        before, after = records(reference / name), records(path / name)
        if before != after:
            problems.append(f"{path.name}: {name} differs: {first_difference(before, after)}")
    steps = [record["step"] for record in records(path / "ledger.jsonl")]
    if steps != list(range(1, len(steps) + 1)):
        problems.append(f"{path.name}: the ledger's steps are not 1 to {len(steps)}")
    problems += [f"{path.name}: {name} was left lying about" for name in strays(path)]
    missing = sorted(shape(reference) ^ shape(path))
    if missing:
        problems.append(f"{path.name}: other files than the undisturbed run has: {missing[:5]}")
    return problems


def strays(path: Path) -> list[str]:
    """Files and folders that only a write under way may have."""
    return sorted(
        str(file.relative_to(path)) for file in path.rglob("*") if STRAY.search(file.name)
    )


def shape(path: Path) -> set[str]:
    """The names of a run folder's files, without those that every process makes its own."""
    names = (str(file.relative_to(path)) for file in path.rglob("*"))
    return {
        re.sub(r"[0-9a-f]{32}", "*", name) for name in names if not name.startswith("tensorboard/")
    }


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a jsonl file without clocks, and without the lines of starts and resumes."""
    if not path.is_file():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [timeless(line) for line in lines if "event" not in line]


def timeless(value: Any) -> Any:
    """A value of a JSON file without the figures that are read from a clock."""
    if not isinstance(value, dict):
        return value
    return {
        name: timeless(inner)
        for name, inner in value.items()
        if name not in CLOCKS and not SECONDS.search(name)
    }


def first_difference(wanted: list, found: list) -> str:
    for a, b in zip(wanted, found, strict=False):
        if a != b:
            return f"{a} became {b}"
    return f"{len(wanted)} lines became {len(found)}"
