"""Trains a run as `jaxlm train`, `finetune` and `resume` do, and prints how it ended."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxlm.core.config import Resolved
    from jaxlm.run import RunConfig


def run_training(
    resolved: Resolved[RunConfig],
    *,
    accept_changed_data: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    must_exist: bool = False,
) -> int:
    """The exit code of the run."""
    from jaxlm.api import fit
    from jaxlm.cli.shared.figures import print_figures
    from jaxlm.core.files import disk_errors
    from jaxlm.distributed.processes import failing_together, init_processes
    from jaxlm.runs.folder import RunDir
    from jaxlm.runs.measures import final_measures

    init_processes(coordinator, num_processes, process_id)
    with failing_together(), disk_errors(resolved.config.run_dir or ""):
        outcome = fit(resolved, must_exist=must_exist, accept_data=accept_changed_data)
    import jax

    if jax.process_index() == 0:
        print(outcome.message)
        run = RunDir(resolved.config.run_dir or "")
        print_figures(final_measures(run, outcome.result))
        if outcome.report:
            print(f"report: {resolved.config.run_dir}/report.html")
    return outcome.code


def say(line: str) -> None:
    """Prints a message to stderr: stdout has only the answer."""
    print(line, file=sys.stderr)
