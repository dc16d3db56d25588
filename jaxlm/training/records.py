"""The record of a run: what its folder keeps of its config, code, tokenizer and data.

record = record_of(run, session, step, accept_data=False)   # compares it with what is there
write_run_files(run, session, marks, record)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

from jaxlm import __version__
from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.core.files import write_atomic
from jaxlm.data.store.prepared import Prepared
from jaxlm.distributed.consensus import decide
from jaxlm.runs.environment import environment
from jaxlm.runs.files import read_own, write_own
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import (
    ACCEPT_DATA,
    Identity,
    Record,
    code_sha256,
    data_change,
    digest_of,
    import_sha256,
    kept_files,
    read_record,
)
from jaxlm.training.session import Session
from jaxlm.training.started import has_started

log = logging.getLogger("jaxlm")


def write_run_files(
    run: RunDir, session: Session, marks: Mapping[str, Any], record: Record
) -> None:
    """Writes the files that make a folder a run: its config, tokenizer, data manifest, environment
    and identity."""
    run.checkpoints.mkdir(exist_ok=True)  # from now on, a run without this folder has lost it
    if not has_started(run):
        shutil.rmtree(run.tokenizer, ignore_errors=True)
        partial = run.path / ".tokenizer.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        session.prepared.tokenizer.save(partial)
        partial.rename(run.tokenizer)
        _keep_originals(run, session.config.init.from_)
    run_id = record.identity.run_id
    write_own(run.data_manifest, _with_earlier(run, session.prepared.manifest), run_id)
    write_own(run.environment, environment(), run_id)
    where = {k: str(m) for k, m in marks.items()}
    write_own(run.marks, where, run_id)
    config = configs.to_yaml(session.config)
    before = run.config.read_bytes() if run.config.is_file() else None
    replaced = hashlib.sha256(before).hexdigest() if before is not None else None
    dataclasses.replace(
        record, config=config, replaced=replaced, marks=digest_of(where), files=kept_files(run)
    ).write(run)
    write_atomic(run.config, config)


def record_of(run: RunDir, session: Session, step: int | None, *, accept_data: bool) -> Record:
    """The record of a run that starts, or continues from `step`. Call it in every process.

    Raises `UserError` where the data is not what the run was trained on, unless `accept_data`, and
    where the processes have different data.
    """
    data = data_content(session.prepared)
    mine = json.dumps({name: content["sha256"] for name, content in data.items()})
    if decide("data", mine, lambda texts: "equal" if len({*texts}) == 1 else "") != "equal":
        raise UserError("data: the processes of this run read different data; give all the same")
    tokenizer = session.prepared.tokenizer.fingerprint()
    record, _ = read_record(run) if step is not None else (None, [])
    if record is None:
        source = session.config.init.from_ if step is None else None
        start = import_sha256(RunDir(source)) if source is not None else None
        identity = Identity.new(tokenizer=tokenizer, data=data, start=start)
        if step is not None:
            log.info("checkpoint %d: was saved by a version that kept no identity of a run", step)
        return Record(identity=identity, config="", saved=step is not None, before=step)
    identity = record.identity
    change = data_change(record, data)
    if change is not None:
        check_accepted(f"{run}: the data", change, accept_data)
        log.warning("the data has changed since step %d, which is accepted: %s", step, change)
        entry = {"flag": ACCEPT_DATA, "step": step, "time": time.time(), "change": change}
        identity = dataclasses.replace(identity, data=data, accepted=(*identity.accepted, entry))
    if identity.code != code_sha256():
        log.info(
            "the code of jaxlm is not that of the start before (%s, now %s)",
            f"{identity.version} {identity.code[:8]}",
            f"{__version__} {code_sha256()[:8]}",
        )
        identity = dataclasses.replace(identity, version=__version__, code=code_sha256())
    return dataclasses.replace(record, identity=identity, saved=True)


def data_content(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """The data's part of a run's identity: the content and the counts of each split."""
    counts = prepared.manifest["splits"]
    content = prepared.manifest["content"]
    return {name: {**counts.get(name, {}), **content[name]} for name in content}


def check_measured_data(
    run: RunDir, prepared: Prepared, accepted: bool, report: Callable[[str], None]
) -> None:
    """Raises `UserError` where the validation split is not the one that the run has measured."""
    record, _ = read_record(run)
    data = (record.identity.data if record else None) or {}
    if record is None or "validation" not in data:
        return
    held = {"validation": data["validation"]}
    record = dataclasses.replace(record, identity=dataclasses.replace(record.identity, data=held))
    now = {k: v for k, v in data_content(prepared).items() if k == "validation"}
    change = data_change(record, now)
    if change is not None:
        check_accepted(f"{run}: the data", change, accepted)
        report(f"the data has changed since the run was trained, which is accepted: {change}")


def check_accepted(what: str, change: str, accepted: bool) -> None:
    """Raises `UserError` where data that has changed was not accepted."""
    if not accepted:
        raise UserError(
            f"{what} is not what the run was trained on: {change}; put it back, or add "
            f"{ACCEPT_DATA} to use it as it is"
        )


def _with_earlier(run: RunDir, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with those that the run had before it, oldest first, under "earlier"."""
    try:
        before = read_own(run, run.data_manifest) if has_started(run) else {}
    except (FileNotFoundError, UserError):  # named when the run was opened
        before = {}
    earlier = before.pop("earlier", [])
    plain = json.loads(json.dumps(manifest))
    if before and before.get("content") != plain.get("content"):  # a place may change
        earlier = [*earlier, before]
    return {**plain, "earlier": earlier} if earlier else plain


def _keep_originals(run: RunDir, source: str | None) -> None:
    """The files that a first stage was imported with come along, so that an export has them."""
    shutil.rmtree(run.originals, ignore_errors=True)
    if source is not None and RunDir(source).originals.is_dir():
        partial = run.path / ".hf.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(RunDir(source).originals, partial)
        partial.rename(run.originals)
