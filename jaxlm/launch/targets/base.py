"""The base of every launch target: what a launch config is, and the plan that it makes.

A target gives `plan`: the steps (`jaxlm.launch.steps`) that start a job. One that starts it again
after a failure derives from `RestartingConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as plain_field
from typing import ClassVar

from jaxlm.core.config import (
    Config,
    Kind,
    UserError,
    field,
)
from jaxlm.launch.chips import Chips
from jaxlm.launch.job import Job
from jaxlm.launch.steps import Step


@dataclass(frozen=True)
class LaunchPlan:
    """The steps of each action of a target, and those of a whole run.

    `start` creates the machines, `attempt` trains on them and reports the outcome, `again` prepares
    another attempt on the same machines, `remove` deletes the machines. `state` prints a word of
    `lost` if they were preempted. A target whose scheduler restarts a run has only `attempt`.
    """

    actions: Mapping[str, tuple[Step, ...]]
    attempt: tuple[Step, ...]
    start: tuple[Step, ...] = ()
    again: tuple[Step, ...] = ()
    remove: tuple[Step, ...] = ()
    state: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    max_restarts: int = 0
    notes: tuple[str, ...] = plain_field(default=())


@dataclass(frozen=True, kw_only=True)
class LaunchConfig(Config):
    """A target on which a run starts."""

    kind: ClassVar = Kind("launch_targets", "launch target", folder="jaxlm.launch.targets")

    name: str | None = field(
        None, "name of the machines or the job; null: the last part of the run's folder"
    )
    env: dict[str, str] = field(dict, "environment variables of the run; not for secrets")
    secrets: tuple[str, ...] = field(
        (), "names of variables whose values are secret: never shown in a command or a log"
    )

    def validate(self) -> None:
        for name in (*self.env, *self.secrets):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise UserError(
                    f"env, secrets: {name!r} is not a variable's name; use letters, digits and _"
                )
        for name in self.env:
            if re.search(r"(?i)key$|token|secret|passw|credential", name):
                raise UserError(
                    f"env: {name} looks like a secret; move its name to secrets, without the "
                    "value, which is read from the environment"
                )

    def plan(self, job: Job) -> LaunchPlan:
        """The steps that start `job` on this target."""
        raise NotImplementedError

    def chips(self) -> Chips | None:
        """The requested accelerators; None if the config does not say."""
        return None


@dataclass(frozen=True, kw_only=True)
class RestartingConfig(LaunchConfig, abstract=True):
    """A target on which the launch restarts a run."""

    max_restarts: int = field(
        3, "restarts in a row after failures without a newer checkpoint", ge=0
    )
