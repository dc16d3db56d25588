"""The folder of a run's checkpoints: names, listing, retention, and what a killed save leaves.

    00000100          committed: whole, with checksums.json
    00000100.saving1  a save under way, or what a killed one left; every attempt has its own
    00000100.corrupt  set aside: a check of its bytes failed
    00000100.broken   set aside: the loss was not finite after it; goes with the next save
    00000100.removing on its way out

Nothing here imports jax, so that `jaxlm info` starts quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxlm.core.checksums import CHECKSUMS
from jaxlm.core.files import fsync_folder

SAVING, CORRUPT, BROKEN, REMOVING = ".saving", ".corrupt", ".broken", ".removing"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """One folder of checkpoints/; `time` is the unix second of its commit."""

    step: int
    path: Path
    size_bytes: int
    time: float
    committed: bool
    kept_reason: str


def step_folder(folder: Path, step: int, suffix: str = "") -> Path:
    return folder / f"{step:08d}{suffix}"


def committed_steps(folder: Path) -> list[int]:
    """Steps whose folder carries no suffix, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if _is_step(p.name))


def _is_step(name: str) -> bool:
    """Whether `step_folder` gives this name to a step that a run can reach."""
    return re.fullmatch(r"\d{8}|[1-9]\d{8,17}", name) is not None


def _erase(path: Path) -> None:
    """Removes a folder, or a file that has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def list_checkpoints(
    folder: Path, keep_last: int | None = None, keep_every: int | None = None
) -> list[CheckpointInfo]:
    """All folders with a step's name, oldest first, set-aside and half-written ones included."""
    steps = committed_steps(folder)
    reasons = keep_reasons(steps, keep_last, keep_every)
    for step in best_of(folder, steps):
        reasons[step] = f"best, {reasons[step]}" if step in reasons else "best"
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = re.fullmatch(r"(\d{8,})(\.\w+)?", path.name)
        if not match or not _is_step(match[1]):
            continue
        with contextlib.suppress(FileNotFoundError):  # pruned by the running trainer meanwhile
            found.append(_info(path, int(match[1]), match[2], reasons))
    return found


def best_of(folder: Path, steps: Iterable[int]) -> list[int]:
    """Those of `steps` that the newest checkpoint's data.json names as the best, the best first."""
    steps = list(steps)
    try:
        data = json.loads((step_folder(folder, steps[-1]) / "data.json").read_bytes())
    except (IndexError, OSError, ValueError):
        return []
    best = data.get("best") if isinstance(data, dict) else None  # a damaged file may hold anything
    return [step for step in best if step in steps] if isinstance(best, list) else []


def _info(path: Path, step: int, suffix: str | None, reasons: dict[int, str]) -> CheckpointInfo:
    sums = path / CHECKSUMS
    committed = suffix is None and sums.exists()
    other = {SAVING: "being saved, or left by a killed save", CORRUPT: "set aside as corrupt"}
    other[BROKEN] = "set aside: the loss was not finite after it"
    kind = (suffix or "").rstrip("0123456789")
    return CheckpointInfo(
        step=step,
        path=path,
        size_bytes=sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
        time=(sums if sums.exists() else path).stat().st_mtime,
        committed=committed,
        kept_reason=reasons.get(step, "to be removed")
        if committed
        else other.get(kind, "unfinished"),
    )


def keep_reasons(
    steps: Iterable[int], keep_last: int | None, keep_every: int | None
) -> dict[int, str]:
    """{step: why it stays}; steps that are not in it may go. The newest always stays."""
    steps = sorted(steps)
    last = steps[-max(keep_last, 1) :] if keep_last is not None else steps
    reasons = {
        step: f"every {keep_every}" for step in steps if keep_every and step % keep_every == 0
    }
    for step in last:
        reasons[step] = "newest" if step == steps[-1] else f"one of the last {len(last)}"
    return reasons


def prune(
    folder: Path,
    newest: int,
    keep_last: int,
    keep_every: int | None,
    trusted: int | None = None,
    *,
    best: Collection[int] = (),
) -> list[int]:
    """Removes the checkpoints that retention does not keep, never `newest`; returns their steps.

    `best` stay because of what was measured. Where only steps up to `trusted` are known to have
    good weights, the newest of those and all after it stay too.
    """
    steps = committed_steps(folder)
    keep = {newest, *best, *keep_reasons(steps, keep_last, keep_every)}
    gone = [step for step in steps if step not in keep]
    if trusted is not None:
        good = max((step for step in steps if step <= trusted), default=0)
        gone = [step for step in gone if step < good]
    for step in gone:
        remove(step_folder(folder, step))
    return gone


def remove_broken(folder: Path, last: int | None = None) -> None:
    """Removes what was set aside as broken, up to step `last` where that is given."""
    for path in folder.glob(f"*{BROKEN}"):
        if last is None or (path.stem.isdecimal() and int(path.stem) <= last):
            _erase(path)


def publish(path: Path) -> None:
    """Gives a save that has its checksums its final name, in place of an older one of that step."""
    final = path.with_suffix("")
    doomed = path.with_suffix(REMOVING)
    if final.exists():
        _erase(doomed)
        os.rename(final, doomed)
    os.rename(path, final)
    fsync_folder(path.parent)
    _erase(doomed)


def remove(path: Path) -> None:
    """Removes a checkpoint; renamed first, so that a kill half-way leaves no half checkpoint."""
    doomed = path.with_suffix(REMOVING)
    _erase(doomed)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, doomed)
    _erase(doomed)


def discard(path: Path, seconds: float = 2.0) -> None:
    """Removes a failed save, again where writes under way add files for a moment yet."""
    limit = time.monotonic() + seconds
    while path.exists() and time.monotonic() < limit:
        _erase(path)
        time.sleep(0.02)


def clean(folder: Path) -> list[str]:
    """Removes what killed saves and removals left; returns the names of what went.

    A save killed between its last byte (the checksums) and its final name is whole: it gets the
    name.
    """
    names = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        whole = (path / CHECKSUMS).exists() and not path.with_suffix("").exists()
        if path.suffix.startswith(SAVING) and whole:
            publish(path)
        elif path.suffix.startswith((SAVING, REMOVING)):
            _erase(path)
            names.append(path.name)
    return names


def abandon(folder: Path, first: int) -> list[int]:
    """Sets aside as broken all checkpoints from step `first` on; returns their steps."""
    gone = [step for step in committed_steps(folder) if step >= first]
    for step in reversed(gone):  # a kill in between leaves the good ones
        target = step_folder(folder, step, BROKEN)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(step_folder(folder, step), target)
    return gone


def set_aside(path: Path) -> Path:
    """Renames a bad checkpoint out of the way, never over an earlier one; returns its new place."""
    target, number = path.with_name(path.name + CORRUPT), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{CORRUPT}{number}")
    os.rename(path, target)
    return target
