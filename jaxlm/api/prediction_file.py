"""Predictions as a file of JSON lines, which is continued where it was left.

    predict_file(run, "new.csv", "answers.jsonl")           # one line a record, in order

Beside OUT there is OUT.from.json: which run, checkpoint and input its lines are of, and how many
they are when OUT is complete. A file that is there is continued: lines of whole chunks are kept, a
torn last line and the rest of its chunk are predicted again, so that the batches and with them
every digit are those of a run without a pause.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Unpack

from jaxlm.api.prediction import Predictor
from jaxlm.api.run import Run
from jaxlm.core.config import UserError
from jaxlm.core.files import file_sha256, read_json, write_atomic
from jaxlm.data.reading.files import match_files
from jaxlm.evals.written import Writing
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import read_record

CHUNK = 16  # batches whose lines are written together


def predict_file(
    run: Run,
    given: str,
    out: str | Path,
    *,
    batch_size: int | None = None,
    report: Callable[[str], None] = print,
    **writing: Unpack[Writing],
) -> int:
    """Writes a line for each record of the file `given`; returns their number.

    writing: as of `Predictor`. Raises `UserError` where `out` has predictions of another run,
    checkpoint or input.
    """
    predictor, out = Predictor(run, batch_size, report, **writing), Path(out)
    if out.exists() and Path(given).exists() and out.samefile(given):
        raise UserError(f"{out}: is the input; name another file for the predictions")
    size = CHUNK * predictor.batch_size
    records = predictor.records(given)
    first = next(records, None)  # a wrong column costs no loading of weights
    if first is None:
        raise UserError(f"{given}: has no records; name a file with some")
    records = itertools.chain([first], records)
    origin = _origin(run, given, predictor.batch_size, writing)
    done = _kept(out, origin, size, report)
    for _ in itertools.islice(records, done):
        pass
    with open(out, "ab") as file:
        while chunk := [*itertools.islice(records, size)]:
            for prediction in predictor.predictions(chunk):
                file.write(json.dumps(prediction, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            done += len(chunk)
    write_atomic(_beside(out), json.dumps({**origin, "lines": done}) + "\n")
    return done


def _origin(run: Run, given: str, batch_size: int, writing: Writing) -> dict[str, Any]:
    record, _ = read_record(RunDir(run.path))
    return {
        "run": None if record is None else record.identity.run_id,
        "step": run.step,
        "input": _sha256_of(given),
        "batch_size": batch_size,
        **({"writing": writing} if writing else {}),
        **({"settings": [*run.overrides]} if run.overrides else {}),
    }


def _sha256_of(given: str) -> str:
    """The SHA-256 of a file, or of the names and contents of those that match a pattern."""
    files = {name: file_sha256(path) for name, path in match_files([given]).items()}
    if len(files) == 1:
        return next(iter(files.values()))
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.name}.from.json")


def _kept(out: Path, origin: dict[str, Any], size: int, report: Callable[[str], None]) -> int:
    """The number of lines of `out` that are kept; what follows them is cut off."""
    beside = _beside(out)
    if not out.exists():
        write_atomic(beside, json.dumps(origin) + "\n")
        return 0
    if not beside.exists():
        raise UserError(
            f"{out}: exists, and nothing says of which run it is; name another file, or remove it"
        )
    before = read_json(beside, f"remove it and {out}")
    all_lines = before.pop("lines", None)  # of a file that is complete
    keys = dict.fromkeys([*origin, *before])
    if changed := [key for key in keys if before.get(key) != origin.get(key)]:
        raise UserError(
            f"{out}: has predictions of another {' and '.join(changed)}; remove it, or name "
            "another file"
        )
    lines, ends = 0, [0]
    with open(out, "rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            lines += 1
            ends.append(ends[-1] + len(line))
        torn = os.fstat(file.fileno()).st_size > ends[-1]
        is_complete = lines == all_lines and not torn
        kept = lines if is_complete else lines - lines % size
        if torn or kept < lines:
            file.truncate(ends[kept])
    if is_complete:
        report(f"{out}: is complete")
    elif lines or torn:
        report(f"{out}: continues after {kept} lines")
    return kept
