"""The outcome of a run, and whether one that is to continue has ended already.

return Outcome(DONE, "done: step 20 of 20", result)
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass, field
from typing import Any

from jaxlm.checkpoint.reader import CheckpointReader
from jaxlm.core import config as configs
from jaxlm.core.exit_codes import DONE
from jaxlm.distributed.consensus import decide
from jaxlm.report import write_report
from jaxlm.run import RunConfig
from jaxlm.runs.files import read_result
from jaxlm.runs.folder import RunDir
from jaxlm.runs.records import Records

log = logging.getLogger("jaxlm")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: an exit code, and a line for the user."""

    code: int
    message: str
    result: dict[str, Any] = field(default_factory=dict)
    report: bool = False  # whether report.html is written and is that of this end


def finished(run: RunDir, config: RunConfig) -> Outcome | None:
    """The outcome of a run that has ended, if its last checkpoint is there; None for any other."""

    def look(_: list[str]) -> str:
        result, problem = read_result(run)
        if problem:
            log.warning("%s", problem)
        return json.dumps(result)

    result = json.loads(decide("result", "", look))
    step, stopped = result.get("step"), result.get("stopped")
    if step is None or not (step == config.train.steps or _stays_stopped(stopped, config)):
        return None
    if CheckpointReader(run.checkpoints, report=log.warning).latest() != step:
        return None
    how = f"stopped early: {stopped['reason']}; " if stopped else ""
    return Outcome(
        DONE,
        f"done already: step {step} of {config.train.steps}, {how}nothing was changed; "
        f"`jaxlm eval {run}` measures it again, another run_dir starts from the beginning",
        result,
        report=_complete_report(run),
    )


def _stays_stopped(stopped: dict[str, Any] | None, config: RunConfig) -> bool:
    """Whether a run that was stopped early has no reason to continue: its settings are the same."""
    early = config.early_stop
    settings = None if early is None else configs.to_dict(early)
    return stopped == {**(stopped or {}), "of": config.train.steps, "early_stop": settings}


def _complete_report(run: RunDir) -> bool:
    """Whether a finished run has its report; a process killed after result.json wrote none."""

    def look(_: list[str]) -> str:
        with contextlib.suppress(OSError):
            if run.report.stat().st_mtime_ns >= run.result.stat().st_mtime_ns:
                return "written"
        written = Records(run, 0, keep_ledger=False).write(run.report, write_report)
        if written:
            log.info("%s: was missing or older than the result; written", run.report)
        return "written" if written else ""

    return decide("report", "", look) == "written"
