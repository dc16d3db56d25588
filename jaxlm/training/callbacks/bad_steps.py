"""Steps whose loss is not finite: they are counted, the run goes back, or it stops.

A step that was applied proves the weights before it (`Checkpointer.trusted`). What a rollback
skips is said in `jaxlm.training.rollback`.
"""

from __future__ import annotations

import logging

from jaxlm.core.callback import Hook, Taken
from jaxlm.core.errors import few
from jaxlm.core.exit_codes import INTERRUPTED, NOT_FINITE
from jaxlm.distributed.watchdog import PATIENCE
from jaxlm.runs import checkpoints as dirs
from jaxlm.training.context import Context
from jaxlm.training.outcome import Outcome
from jaxlm.training.rollback import entry, skipped

log = logging.getLogger("jaxlm")


class BadSteps(Hook):
    """Ends training at `train.max_bad_steps`, or sends it back as `train.rollback` says."""

    def on_metrics(self, run: Context, taken: Taken) -> None:
        train, step = run.config.train, taken.step
        run.bad_steps = bad = int(taken.metrics["bad_steps"][0])
        if not bad:  # its loss is of the weights before it: those are good
            run.saver.trusted = step - suspects(run)
            return
        log.warning(
            "step %d: the loss is not finite; the step is not applied (%d in a row); samples %s",
            step,
            bad,
            few(taken.ids),
        )
        rollback = train.rollback
        if rollback and bad >= rollback.after and len(run.skips) < rollback.max:
            first = max(1, step - bad + 1 - rollback.before)
            run.skips.append(entry(step, first, skipped(run.skips)))
            run.back_to = first - 1
            run.goes_back = True
        elif bad >= train.max_bad_steps:
            run.ended = not_finite(run, step, f" (samples {few(taken.ids)}); look at these, or")


def suspects(run: Context) -> int:
    """The number of the last applied steps that may have broken the weights."""
    rollback = run.config.train.rollback
    return rollback.before if rollback else 1


def go_back(run: Context) -> None:
    """The next leg starts from a checkpoint before the batches that are skipped now."""
    batches = run.skips[-1]["batches"]
    log.warning(
        "rollback %d: the loss was not finite for %d steps in a row, last at step %d; back to "
        "step %d or before, without batches %d to %d (the first is 0)",
        len(run.skips),
        run.bad_steps,
        run.skips[-1]["step"],
        run.back_to,
        batches[0],
        batches[-1],
    )
    with run.watch("save"), run.watchdog.doing("save", PATIENCE):
        run.saver.abandon(run.back_to + 1)


def unsaved_streak(run: Context) -> Outcome | None:
    """The reason not to save a run that ends among steps that were not applied; None: it is saved.

    The weights may be broken since the last step that was applied. A save of them would be the
    newest, and a resume would start from it; the steps themselves are repeated in the same way.
    """
    if not run.bad_steps:
        return None
    if run.step < run.total:
        return Outcome(
            INTERRUPTED,
            f"stopped by a signal after step {run.step} of {run.total}; not saved, since the "
            f"last {run.bad_steps} steps were not applied: `jaxlm resume {run.run_dir}` continues "
            "from the checkpoint before them",
        )
    end = run.step - run.bad_steps
    return not_finite(run, run.step, f"; end before them with train.steps={end}, or")


def not_finite(run: Context, step: int, advice: str) -> Outcome:
    """The run stops. A resume starts from a checkpoint before the damage, which the last step
    that was applied may have done.
    """
    with run.watch("save"), run.watchdog.doing("save", PATIENCE):
        run.saver.abandon(step - run.bad_steps)
    left = dirs.committed_steps(run.run_dir.checkpoints)
    return Outcome(
        NOT_FINITE,
        f"stopped: the loss was not finite for {run.bad_steps} steps in a row, last at step {step}"
        f"{advice} continue from {f'checkpoint {left[-1]}' if left else 'the start'} with a "
        f"lower rate: `jaxlm resume {run.run_dir} optimizer.learning_rate=...`",
    )
