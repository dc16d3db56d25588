"""The composition root: a run is opened from its config, and trained to its end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack

import jax

from jaxlm.api.frozen import with_imported
from jaxlm.core.callback import Hook
from jaxlm.core.config import Resolved
from jaxlm.core.exit_codes import INTERRUPTED
from jaxlm.distributed.memory import keep_freed_memory
from jaxlm.distributed.signals import Signals, Stopped
from jaxlm.evals.evaluators import evaluators_of
from jaxlm.evals.samples import Sampler
from jaxlm.run import RunConfig, saved_config
from jaxlm.runs.files import folder_problems
from jaxlm.runs.folder import RunDir
from jaxlm.runs.log import logging_to
from jaxlm.runs.stopwatch import Stopwatch
from jaxlm.training import changes, started
from jaxlm.training.compatibility import check_schedule
from jaxlm.training.outcome import Outcome, finished
from jaxlm.training.session import Session
from jaxlm.training.trainer import Trainer

log = logging.getLogger("jaxlm")


def fit(
    resolved: Resolved[RunConfig],
    *,
    must_exist: bool = False,
    accept_data: bool = False,
    hooks: Sequence[Hook] = (),
) -> Outcome:
    """Trains the run of a config to its end, from the newest good checkpoint of its folder.

    must_exist: the folder holds a run. accept_data: the data may have changed since the run began.
    hooks: callbacks besides those of the config. Raises `UserError` for a mistake of the user.
    """
    with ExitStack() as stack:
        found = open_run(
            stack, resolved, must_exist=must_exist, accept_data=accept_data, hooks=hooks
        )
        if isinstance(found, Outcome):
            return found
        try:
            return found.run()
        except Stopped as name:
            return stopped(resolved, name)


def open_run(
    stack: ExitStack,
    resolved: Resolved[RunConfig],
    *,
    must_exist: bool = False,
    accept_data: bool = False,
    hooks: Sequence[Hook] = (),
) -> Trainer | Outcome:
    """The trainer of a run, or the outcome of one that has ended already. `stack` holds its lock,
    its log and the handlers of signals. The arguments are those of `fit`.
    """
    keep_freed_memory()
    first = jax.process_index() == 0
    run = RunDir(resolved.config.run_dir or "")
    if must_exist:
        saved_config(run.path)
    check_schedule(resolved.config, resolved.marks, None)
    resolved = with_imported(resolved)
    started.check_trainable(run)
    started.check_checkpoints(run)
    stack.enter_context(run.lock(jax.process_index()))
    watch = Stopwatch.load(run.path)
    stack.enter_context(logging_to(run, first))
    signals = stack.enter_context(Signals())
    try:
        with watch("setup"):
            if first and started.has_started(run):
                for problem in folder_problems(run):
                    log.warning("%s", problem)
            if must_exist:
                changes.check_changes(run, resolved.config)
                ended = finished(run, resolved.config)
                if ended is not None:
                    return ended
            session = Session.open(resolved.config, report=log.info, marks=resolved.marks)
            if not must_exist:
                changes.check_same_run(run, session.config)
                ended = finished(run, session.config)
                if ended is not None:
                    return ended
        return Trainer(
            session,
            run,
            watch,
            signals,
            resolved.marks,
            evaluators=evaluators_of(session),
            sampler=Sampler(session),
            hooks=hooks,
            accept_data=accept_data,
        )
    except Stopped as name:
        return stopped(resolved, name)


def stopped(resolved: Resolved[RunConfig], name: Stopped) -> Outcome:
    """The outcome of a run that a signal stopped before its first step."""
    run = resolved.config.run_dir
    return Outcome(INTERRUPTED, f"stopped by {name}; the same command continues {run}")
