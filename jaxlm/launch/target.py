"""A launch config: where a run starts. `type:` names the target.

    target = load_target("launch/slurm.yaml", ["nodes=4"])
    plan = target.plan(job)

A target without required fields can be named without a file: `jaxlm launch local`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as plain_field
from pathlib import Path
from typing import Any, ClassVar

from jaxlm.core import registry
from jaxlm.core.config import (
    REQUIRED,
    Config,
    Kind,
    Layer,
    Mark,
    UserError,
    field,
    load,
    parse,
    read_overrides,
    suggest,
)
from jaxlm.launch.chips import Chips
from jaxlm.launch.job import Job
from jaxlm.launch.names import check_names
from jaxlm.launch.steps import Step

MANY_LINES = ("env", "setup")  # values and shell code; all other texts are names
ACTIONS = ("create", "queue", "run", "logs", "status", "delete")


@dataclass(frozen=True)
class Plan:
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
    """Where a run starts."""

    kind: ClassVar = Kind("launch_targets", "launch target", folder="jaxlm.launch")

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

    def plan(self, job: Job) -> Plan:
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


def load_target(name: str, settings: Iterable[str] = ()) -> LaunchConfig:
    """The launch config of a YAML file or of a target's name, with `key=value` settings."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists() or "/" in name:
        resolved = load(path, LaunchConfig, settings)
        check_names(resolved.config, resolved.marks, MANY_LINES)
        return resolved.config
    known = registry.names(LaunchConfig)
    if name not in known and ":" not in name:
        raise UserError(f"{name!r} is not a target or a launch file; {suggest(name, known)}")
    layer = Layer({"type": name}, {"type": Mark("command line")})
    layer.merge(read_overrides(settings))
    missing = [
        key for key in _required(registry.find(LaunchConfig, name)) if key not in layer.values
    ]
    if missing:
        raise UserError(
            f"{name}: needs {', '.join(missing)}; write a file such as launch/{name}.yaml, or add "
            f"--set {missing[0]}=..."
        )
    config = parse(LaunchConfig, layer.values, layer.marks)
    check_names(config, layer.marks, MANY_LINES)
    return config


def _required(cls: Any) -> list[str]:
    specs = cls.__dataclass_fields__.values()
    return [s.name for s in specs if s.default is REQUIRED and s.default_factory is REQUIRED]
