"""`jaxlm launch`: print the steps of a plan, or run them until the run has ended.

    code = launch(target, job, action=None, dry_run=True)

Without an action it does everything: create the machines; train; restart from the last checkpoint
if the machines are lost, or the run fails in a way that a restart can fix; delete the machines.
"""

from __future__ import annotations

import contextlib

from jaxlm.core.config import UserError, suggest, type_name
from jaxlm.core.exit_codes import CTRL_C, DONE, FINAL
from jaxlm.launch.budget import Budget
from jaxlm.launch.chips import check_mesh
from jaxlm.launch.job import Job
from jaxlm.launch.runner import Lost, Runner, StepFailed
from jaxlm.launch.shell import comment
from jaxlm.launch.steps import Step
from jaxlm.launch.targets.base import LaunchConfig, LaunchPlan

STARTING = (None, "create", "queue", "run")  # the other actions need no mesh


def launch(
    target: LaunchConfig, job: Job, action: str | None = None, *, dry_run: bool = False
) -> int:
    """Returns the exit code of the run, or 1 if a step failed. Raises `UserError`."""
    if action in STARTING:
        check_mesh(target.chips(), job.values["mesh"])
    plan = target.plan(job)
    if action is not None and action not in plan.actions:
        kind = type_name(type(target))
        raise UserError(f"--action: {kind} has no {action!r}; {suggest(action, plan.actions)}")
    if dry_run:
        print(render(plan, action), end="")
        return DONE
    runner = Runner(target.secrets)
    try:
        if action is not None:
            runner.run(plan.actions[action])
            return runner.ended[0] if runner.ended else DONE
        return _to_the_end(plan, runner)
    except StepFailed as error:
        runner.say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        if plan.start or "logs" in plan.actions:
            runner.say(
                "# detached: the run continues. The same command with --action logs follows it, "
                "with --action delete ends it"
            )
        return CTRL_C


def _to_the_end(plan: LaunchPlan, runner: Runner) -> int:
    """Trains until the run has ended or must not be restarted; then deletes the machines."""
    budget, there = Budget(plan.max_restarts, progress=0), not plan.start
    while True:
        runner.ended = failed = None
        try:
            if not there:
                runner.run(plan.start)
                there = True
            runner.run(plan.attempt)
        except StepFailed as error:
            if not plan.start or not (there or isinstance(error, Lost)):
                raise  # no machine was created, so there is nothing to continue with or to delete
            failed = error
        code, progress = runner.ended or (1 if failed else DONE, 0)
        if not plan.start or (failed is None and code in FINAL):
            break
        gone = isinstance(failed, Lost) or runner.word_of(plan.state, plan.lost) is not None
        runner.say(f"# {failed or f'the run ended with exit code {code}'}")
        # A preemption of machines that train is not a failure and does not use the budget.
        free = gone and there
        if not free and not budget.spend(progress):
            runner.say(
                f"error: no newer checkpoint in {plan.max_restarts} restarts; fix the error in the "
                "log, then launch again"
            )
            break
        runner.pause(budget.pause)
        runner.run(plan.remove if gone else plan.again)
        there = not gone
    with contextlib.suppress(StepFailed):
        runner.run(plan.remove)
    return code


def render(plan: LaunchPlan, action: str | None) -> str:
    """A plan as a shell script with comments."""
    if action is not None:
        return _script(plan.actions[action])
    text = "".join(f"{comment(note)}\n" for note in plan.notes) + ("\n" if plan.notes else "")
    text += _script((*plan.start, *plan.attempt))
    if plan.start:
        text += (
            "\n# ---- if the run fails and a restart can fix it, at most "
            f"{plan.max_restarts} times without\n# a newer checkpoint: these, then train again\n"
            + _script(plan.again)
            + "\n# ---- if the machines are preempted: delete them as below, then run all again\n"
        )
    if plan.remove:
        text += "\n# ---- when the run has ended\n" + _script(plan.remove)
    return text


def _script(steps: tuple[Step, ...]) -> str:
    return "\n".join(f"{comment(step.why)}\n{step.shell()}\n" for step in steps)
