"""The differences of a config from that of a folder, and whether the run there may continue by it.

    check_changes(RunDir("runs/a"), config)     # raises UserError, or logs what changes on the way

What each field's change means is in `jaxlm.core.config` (`affects`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from jaxlm.core import config as configs
from jaxlm.core.config import UserError
from jaxlm.core.config_paths import anchored, moved, path_keys
from jaxlm.run import RunConfig, load_saved, trajectory
from jaxlm.runs.folder import RunDir
from jaxlm.runs.identity import import_sha256, read_record
from jaxlm.training.started import has_started

log = logging.getLogger("jaxlm")


def check_same_run(run: RunDir, config: RunConfig) -> None:
    """Raises `UserError`, with the differences, where the folder holds another config's run."""
    if not run.config.is_file() or not has_started(run):
        return
    lines = changes(run, config)
    if any(not line.startswith(_moved(run, config)) for line in lines):
        listed = "".join(f"\n  {line}" for line in lines)
        raise UserError(
            f"{run}: holds a run of another config; set run_dir to a new folder, or change back "
            f"(saved -> now):{listed}"
        )


def changes(run: RunDir, config: RunConfig, but: Collection[configs.Affects] = ()) -> list[str]:
    """The changes of a config that affect weights since the run saved it: "train.steps: 3 -> 6".

    but: what fields affect that are left out as well.
    """
    old, new = (trajectory(anchored(c)) for c in (load_saved(run.path).config, config))
    new = _with_start_of(old, new, run)
    return configs.diff(configs.without(old, but), configs.without(new, but))


def _with_start_of(old: RunConfig, new: RunConfig, run: RunDir) -> RunConfig:
    """`new` with the saved paths of the start, where it is an import of the same files: another
    cache, or another version of jaxlm, has it in another folder.
    """
    before, now = old.init.from_, new.init.from_
    if before is None or now is None or before == now:
        return new
    record, _ = read_record(run)
    start = record.identity.start if record is not None else None
    same = start is not None and import_sha256(RunDir(now)) == start
    return moved(new, now, before) if same else new


def check_changes(run: RunDir, config: RunConfig) -> None:
    """Logs what a resumed run changes. Raises `UserError` where that would make it another run."""
    lines = changes(run, config)
    known = _moved(run, config)
    fixed = [line for line in changes(run, config, configs.LOGGED) if not line.startswith(known)]
    if fixed:
        listed = "".join(f"\n  {line}" for line in fixed)
        raise UserError(
            f"{run}: cannot go on as another run; leave these as they are, or start another with "
            f"`jaxlm train` (saved -> now):{listed}"
        )
    for line in lines:
        log.info("changed on the way (saved -> now): %s", line)
    _report_schedule(load_saved(run.path).config, config)


def _moved(run: RunDir, config: RunConfig) -> tuple[str, ...]:
    """The beginnings of lines about files of data, the base and references, which may be in another
    folder.

    Empty where the run has no record of their content, by which they are compared.
    """
    record, _ = read_record(run)
    if record is None:
        return ()
    compared: tuple[str, ...] = ("data.",) if record.identity.data else ()
    frozen = record.identity.frozen
    references = config.objective.references
    compared += tuple(f"objective.{name}." for name in references if name in frozen)
    if "base" in frozen or any(n in frozen and r.from_ is None for n, r in references.items()):
        compared += ("init.from", "init.vectors")  # by the hash of what is read from it
    return tuple(f"{key}:" for key in sorted(path_keys(config)) if key.startswith(compared))


def _report_schedule(saved: RunConfig, now: RunConfig) -> None:
    """Another number of steps stretches the schedule: its rate may jump where the run continues."""
    end = saved.train.steps
    optimizers: tuple[Any, Any] = (saved.optimizer, now.optimizer)
    if end == now.train.steps or not all(hasattr(o, "schedule") for o in optimizers):
        return
    before, after = (
        float(o.learning_rate * o.schedule.build(c.train.steps)(end))
        for o, c in zip(optimizers, (saved, now), strict=True)
    )
    log.info(
        "the schedule is of %s steps now: the learning rate after step %s is %.3g, it was %.3g",
        now.train.steps,
        end,
        after,
        before,
    )
