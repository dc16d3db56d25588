"""Trains a run as `jaxlm train`, `finetune` and `resume` do, and prints how it ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict, Unpack

if TYPE_CHECKING:
    from jaxlm.core.config import Resolved
    from jaxlm.run import RunConfig


class Starting(TypedDict):
    """The options of verbs that train: `options.accept_changed_data` and `options.processes`."""

    accept_changed_data: bool
    coordinator: str | None
    num_processes: int | None
    process_id: int | None


def run_training(
    read: Callable[[], Resolved[RunConfig]],
    *,
    must_exist: bool = False,
    **starting: Unpack[Starting],
) -> int:
    """The exit code of the run.

    read: its config. It is called when the processes have joined, as it may import the model that
    `init.from` names, which needs jax's devices.
    """
    from jaxlm.api import fit
    from jaxlm.cli.shared.figures import print_figures
    from jaxlm.core.files import disk_errors
    from jaxlm.distributed.processes import failing_together, init_processes
    from jaxlm.distributed.threads import limit_threads
    from jaxlm.runs.folder import RunDir
    from jaxlm.runs.measures import final_measures

    accept_data = starting["accept_changed_data"]
    init_processes(starting["coordinator"], starting["num_processes"], starting["process_id"])
    with failing_together():
        resolved = read()
        if (threads := resolved.config.objective.cpu_threads) is not None:
            limit_threads(threads)
        with disk_errors(resolved.config.run_dir or ""):
            outcome = fit(resolved, must_exist=must_exist, accept_data=accept_data)
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
