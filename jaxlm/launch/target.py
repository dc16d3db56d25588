"""A launch config: where a run is to start. `type:` names the target.

    target = load_target("launch/slurm.yaml", ["nodes=4"])
    plan = target.plan(job)

A target with defaults for all that it needs can be named without a file: `jaxlm launch local`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from dataclasses import field as plain_field
from pathlib import Path
from typing import Any, ClassVar

from jaxlm.config import (
    REQUIRED,
    Config,
    Layer,
    Mark,
    UserError,
    field,
    import_name,
    load,
    parse,
    read_overrides,
    suggest,
)
from jaxlm.launch.chips import Chips
from jaxlm.launch.job import Job
from jaxlm.launch.names import check_names
from jaxlm.launch.steps import Step

MANY_LINES = ("env", "setup")  # whose texts are values and shell code; all others are names
ACTIONS = ("create", "queue", "run", "logs", "status", "delete")


@dataclass(frozen=True)
class Plan:
    """The steps of every action that a target has, and what trains to the end.

    `start` makes the machines, `attempt` trains on them and tells the outcome, `again` is what goes
    before another attempt on the same machines, `remove` gives the machines back. `state` prints a
    word of `lost` where they have been taken away. A target whose scheduler restarts by itself has
    `attempt` alone.
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

    registry: ClassVar = {
        "local": "jaxlm.launch.local:Local",
        "gpu_host": "jaxlm.launch.local:GpuHost",
        "tpu_vm": "jaxlm.launch.tpu_vm:TpuVm",
        "gke": "jaxlm.launch.gke:Gke",
        "slurm": "jaxlm.launch.slurm:Slurm",
        "skypilot": "jaxlm.launch.skypilot:SkyPilot",
    }

    name: str | None = field(
        None, "of the machines or the job; null: the last part of the run's folder"
    )
    env: dict[str, str] = field(dict, "environment variables of the run; secrets go elsewhere")
    secrets: tuple[str, ...] = field(
        (), "names of variables whose values are secret: they never stand in a command or a log"
    )

    def validate(self) -> None:
        for name in (*self.env, *self.secrets):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise UserError(
                    f"env, secrets: {name!r} cannot name a variable; use letters, digits and _"
                )
        for name in self.env:
            if re.search(r"(?i)key$|token|secret|passw|credential", name):
                raise UserError(
                    f"env: {name} looks like a secret; write its name under secrets, and its value "
                    "nowhere: it is taken from the environment"
                )

    def plan(self, job: Job) -> Plan:
        """The steps that start `job` here."""
        raise NotImplementedError

    def chips(self) -> Chips | None:
        """The accelerators that this asks for; None where it does not tell."""
        return None


@dataclass(frozen=True, kw_only=True)
class RestartingConfig(LaunchConfig):
    """A target on which the launch itself starts a run again."""

    max_restarts: int = field(
        3, "starts after failures in a row in which no newer checkpoint was written", ge=0
    )


def load_target(name: str, settings: Iterable[str] = ()) -> LaunchConfig:
    """The launch config of a YAML file, or of a target's name, under `key=value` settings."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists() or "/" in name:
        resolved = load(path, LaunchConfig, settings)
        check_names(resolved.config, resolved.marks, MANY_LINES)
        return resolved.config
    registry = LaunchConfig.registry
    if name not in registry:
        raise UserError(f"{name!r} is no target and no launch file; {suggest(name, registry)}")
    layer = Layer({"type": name}, {"type": Mark("command line")})
    layer.merge(read_overrides(settings))
    missing = [key for key in _required(import_name(registry[name])) if key not in layer.values]
    if missing:
        raise UserError(
            f"{name}: needs {', '.join(missing)}; write a file such as launch/{name}.yaml, and "
            "name that"
        )
    config = parse(LaunchConfig, layer.values, layer.marks)
    check_names(config, layer.marks, MANY_LINES)
    return config


def _required(cls: Any) -> list[str]:
    specs = cls.__dataclass_fields__.values()
    return [s.name for s in specs if s.default is REQUIRED and s.default_factory is REQUIRED]
