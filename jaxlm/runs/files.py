"""The sealed JSON files of a run: each says which run it is of, and what is wrong with any is told.

write_own(run.result, {"step": 20, ...}, run_id)
read_own(run, run.result)        # the values; `UserError` where damaged or of another run
for problem in folder_problems(run): ...
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.files import read_sealed, write_sealed
from jaxlm.runs.checkpoints import committed_steps
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import digest_of, missing_checkpoint, read_record
from jaxlm.runs.lines import damage, last_seal, read_lines

RUN_ID = "run_id"


def write_own(path: Path, value: Mapping[str, Any], run_id: str) -> None:
    """Writes a JSON object with the id of its run ("": none yet) and a checksum, whole or not at
    all.
    """
    write_sealed(path, {**value, RUN_ID: run_id} if run_id else value)


def read_own(
    run: RunDir, path: Path, fix: str = "put back a copy or remove the file"
) -> dict[str, Any]:
    """The value that `write_own` wrote. Raises as `read_sealed`, and `UserError` where it is of
    another run.

    A file of an older version says no run, and is taken.
    """
    value = read_sealed(path, fix)
    found = value.pop(RUN_ID, None)
    record, _ = read_record(run)
    own = record.identity.run_id if record else None
    if found is not None and own is not None and found != own:
        raise UserError(f"{path}: is of another run ({found[:8]}, this is {own[:8]}); {fix}")
    return value


def write_ends(run: RunDir, run_id: str) -> None:
    """Writes down the last line that each JSONL file has now: what is lost from it later shows."""
    seals = {path.name: last_seal(path) for path in sorted(run.path.glob("*.jsonl"))}
    write_own(run.ends, {"last": seals}, run_id)


def folder_problems(run: RunDir) -> list[str]:
    """A line for each file beside the checkpoints that is damaged, missing or another run's.

    No weights depend on these files.
    """
    record, _ = read_record(run)
    if record is None or run.imported.exists():
        return []
    missing = missing_checkpoint(run, record)
    problems, found = [missing] if missing else [], {}
    for path in (run.environment, run.marks, run.data_manifest, run.timing, run.ends):
        try:
            found[path] = read_own(run, path)
        except FileNotFoundError:
            if path is not run.ends or _has_seals(run):
                problems.append(f"{path}: is missing; put back a copy")
        except UserError as error:
            problems.append(str(error))
    if record.marks and run.marks in found and digest_of(found[run.marks]) != record.marks:
        problems.append(f"{run.marks}: is not what the last start wrote; put back a copy")
    last = found.get(run.ends, {}).get("last", {})
    names = {*last, *(path.name for path in run.path.glob("*.jsonl"))}
    for name in sorted(names):
        path = run.path / name
        if not path.exists() and last.get(name):
            problems.append(f"{path}: is missing; put back a copy (the weights do not need it)")
        elif problem := damage(path, last.get(name)):
            problems.append(problem)
    if not run.metrics.exists() and run.metrics.name not in last:
        problems.append(f"{run.metrics}: is missing; put back a copy (the weights do not need it)")
    return problems


def _has_seals(run: RunDir) -> bool:
    """Whether this version, which writes records.json, has written to the run."""
    found = (line.seal for path in run.path.glob("*.jsonl") for line in read_lines(path))
    return any(found)


def read_result(run: RunDir, total: int | None = None) -> tuple[dict[str, Any], str]:
    """(result.json, what is wrong with it). A wrong one is not believed: it is empty here.

    total: the steps of the whole run; where they are done, the file must be there.
    """
    steps = committed_steps(run.checkpoints)
    fix = f"`jaxlm resume {run}` measures the last checkpoint again"
    try:
        result = read_own(run, run.result, fix)
    except FileNotFoundError:
        done = steps and steps[-1] == total and not run.imported.exists()
        return {}, f"{run.result}: is missing, though the last step is saved; {fix}" if done else ""
    except UserError as error:
        return {}, str(error)
    if steps and result.get("step") not in (None, steps[-1]):
        what = f"is of step {result.get('step')}, the newest checkpoint is {steps[-1]}"
        return {}, f"{run.result}: {what}; {fix}"
    return result, ""


def data_manifest(run: RunDir) -> dict[str, Any]:
    """The manifest of the run's data, as its last start found it."""
    fix = "put back a copy"
    try:
        return read_own(run, run.data_manifest, fix)
    except FileNotFoundError:
        raise UserError(f"{run.data_manifest}: is missing; {fix}") from None
