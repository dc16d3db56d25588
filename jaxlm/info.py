"""The contents of a run directory, as plain values: `jaxlm info RUN_DIR --json`.

The parameter hash is computed from the newest good checkpoint's own bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.checkpoint.hashing import sha256_of
from jaxlm.checkpoint.on_host import arrays_on_host
from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core.errors import UserError
from jaxlm.core.files import read_sealed
from jaxlm.core.without_jax import reading
from jaxlm.runs.files import folder_problems, read_result
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import read_record
from jaxlm.runs.trackers import extent

Found = dict[str, Any]
STRONGEST = 5  # words of a class that are shown


class Facts(NamedTuple):
    """Facts of a run's config."""

    total_steps: int | None
    sha256: str
    adapted: bool  # whether parameters beside the trained ones are frozen


def describe_run(path: Path) -> Found:
    """Step, parameters and their hash, data position, checkpoints. Changes nothing."""
    run = RunDir(path)
    facts = reading(lambda: _facts(path))
    problems: list[str] = []
    reader = CheckpointReader(run.checkpoints, report=problems.append)
    record, _ = read_record(run)  # the reader reports what is wrong with it
    step = None
    try:
        step = reader.latest()
    except UserError as error:  # there are checkpoints, but none is good
        problems.append(str(error))
    problems += [text for text in folder_problems(run) if text not in problems]
    found: Found = {
        "run_dir": str(path),
        "step": step or 0,
        "total_steps": facts.total_steps,
        "num_params": None,
        "trained_params": None,
        "frozen_bytes": None,
        "param_sha256": None,
        "config_sha256": facts.sha256,
        "data": None,
        "checkpoints": [
            {
                "step": info.step,
                "size_bytes": info.size_bytes,
                "committed": info.committed,
                "kept": info.kept_reason,
            }
            for info in reader.list()
        ],
        "imported": _imported(run, problems),
        "run_id": record.identity.run_id if record else None,
        "accepted": list(record.identity.accepted) if record else [],
        "problems": problems,
        **_result(run, facts.total_steps, problems),
    }
    if step is not None:
        params = reader.read_metadata(step).count("params/")
        frozen, size = _frozen(path) if facts.adapted else (0, 0)
        found["trained_params"], found["num_params"] = params, params + frozen
        found["frozen_bytes"] = size
        found["param_sha256"] = sha256_of(arrays_on_host(reader.path(step), "params/"))
        found["data"] = json.loads(reader.read_file(step, "data.json"))
    return found


def _facts(path: Path) -> Facts:
    from jaxlm.run import config_sha256, load_saved

    config = load_saved(path).config
    return Facts(config.train.steps, config_sha256(config), config.adapter is not None)


def _frozen(path: Path) -> tuple[int, int]:
    """The number of frozen parameters and their bytes: a checkpoint does not have them, the program
    of the run does.
    """
    from jaxlm.core.tree import flatten
    from jaxlm.nn.stored_kernel import count_of
    from jaxlm.training.loading import one_device_program

    _, program = one_device_program(path)
    base = flatten(program.base(program.abstract_params))
    return count_of(base), sum(x.size * x.dtype.itemsize for x in base.values())


def _imported(run: RunDir, problems: list[str]) -> dict[str, Any] | None:
    """The origin of imported weights."""
    if not run.imported.exists():
        return None
    try:
        record = read_sealed(run.imported, "import the model again into another folder")
    except UserError as error:
        problems.append(str(error))
        return None
    return {key: record[key] for key in ("source", "family", "architecture", "dtype")}


def _result(run: RunDir, total: int | None, problems: list[str]) -> dict[str, Any]:
    """The final values and the step that they were measured at; None until the run has ended."""
    result, problem = read_result(run, total)
    problems += [problem] if problem else []
    strongest = result.get("strongest") or {"classes": [], "features": []}
    pairs = zip(strongest["classes"], strongest["features"], strict=True)
    words = {name: [word for word, _ in own[:STRONGEST]] for name, own in pairs}
    kept = {"final": result.get("final"), "evaluated": result.get("evaluated")}
    return {**kept, "strongest": words} if words else kept


def _parameters(found: Found) -> str:
    total, trained = found["num_params"], found["trained_params"]
    if total is None:
        return "no checkpoint yet"
    if trained == total:
        return f"{total:,}"
    frozen = f"the others take {found['frozen_bytes'] / 1e6:,.1f} MB"
    return f"{total:,}, {trained:,} trained ({trained / total:.2%}); {frozen}"


def render(found: Found) -> str:
    """`describe_run`'s findings as aligned lines."""
    data = found["data"]
    rows: list[tuple[str, Any]] = [
        ("run", found["run_dir"]),
        ("run_id", found["run_id"]),
        ("step", f"{found['step']} of {found['total_steps']}"),
        ("parameters", _parameters(found)),
        ("param_sha256", found["param_sha256"]),
        ("config_sha256", found["config_sha256"]),
        ("data", f"{data['rows']:,} rows, epoch {data['epoch']:.3f}" if data else None),
    ]
    if came := found["imported"]:
        rows.append(("imported", "{source}: {architecture}, {dtype}".format(**came)))
    for item in found["checkpoints"]:
        size = f"{item['size_bytes'] / 2**20:.1f} MiB"
        rows.append(("checkpoint", f"{item['step']:>8}  {size:>12}  {item['kept']}"))
    rows += [
        ("accepted", f"from step {entry['step']}: {entry['change']}") for entry in found["accepted"]
    ]
    for entry in (data or {}).get("skipped", ()):
        batches = f"batches {entry['batches'][0]} to {entry['batches'][-1]}"
        rows.append(
            ("rollback", f"at step {entry['step']}: {batches} are skipped (0 is the first)")
        )
    rows += [("problem", text) for text in found["problems"]]
    if found["final"]:
        rows.append(("evaluated", extent(found["evaluated"])))
    for name, value in (found["final"] or {}).items():
        if isinstance(value, float):
            rows.append((name, f"{value:.4f}"))
    for name, words in found.get("strongest", {}).items():
        rows.append((f"strongest {name}", ", ".join(words)))
    rows = [(name, value) for name, value in rows if value is not None]
    width = max(22, *(len(name) for name, _ in rows))
    return "\n".join(f"{name:{width}} {value}" for name, value in rows)
