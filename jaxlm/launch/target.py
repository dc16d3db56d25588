"""A launch config: where a run starts. `type:` names the target.

    target = load_target("launch/slurm.yaml", ["nodes=4"])
    plan = target.plan(job)

A target without required fields can be named without a file: `jaxlm launch local`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxlm.core import registry
from jaxlm.core.config import (
    REQUIRED,
    Layer,
    Mark,
    UserError,
    load,
    parse,
    read_overrides,
    suggest,
)
from jaxlm.launch.names import check_names
from jaxlm.launch.targets.base import LaunchConfig

MANY_LINES = ("env", "setup")  # values and shell code; all other texts are names


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
