"""The result of a search, as a config that can be trained: every stack's own part of it, too.

config = overrides_of(search(facts, topology, base)[0], config, topology)
"""

from __future__ import annotations

from typing import Any

from jaxlm.mesh import AXES
from jaxlm.plan.closed_form.setting import Setting
from jaxlm.plan.closed_form.stacks import Stack
from jaxlm.plan.devices import Topology
from jaxlm.plan.search import Candidate
from jaxlm.run import RunConfig


def overrides_of(candidate: Candidate, config: RunConfig, topology: Topology) -> RunConfig:
    """The config with a candidate's setting, meant for the pod that was searched for."""
    s = candidate.setting
    mesh = config.mesh.replace(
        **{axis: s.mesh.get(axis, 1) for axis in AXES},
        zero=s.zero,
        dcn=s.dcn,
        stage_repeats=s.stage_repeats,
        num_devices=None,  # a candidate takes all there are
        topology=str(topology),
    )
    optimizer: Any = config.optimizer
    for stack in candidate.stacks:
        config = _with(config, stack.path, **_fields(stack, s))
    return config.replace(
        mesh=mesh,
        train=config.train.replace(accumulation=s.accumulation),
        optimizer=optimizer.replace(offload=candidate.offload),
    )


def _fields(stack: Stack, setting: Setting) -> dict[str, Any]:
    """The fields of a stack's config for a setting, as in {"attention.context": "ring"}."""
    found: dict[str, Any] = {"remat": setting.remat}
    if "named" in stack.policies:
        found |= {"saved": setting.saved, "offloaded": setting.offloaded}
    if any(look.same_rows for look in stack.looks):
        found["attention.context"] = setting.context
    return found


def _with(config: Any, path: str, **values: Any) -> Any:
    """A config with other values of fields below the part at `path`."""
    first, _, rest = path.partition(".")
    if first:
        part = _with(getattr(config, first), rest, **values)
        return config.replace(**{first: part})
    own = {name: value for name, value in values.items() if "." not in name}
    config = config.replace(**own)
    for name in values.keys() - own.keys():
        below, _, field = name.rpartition(".")
        config = _with(config, below, **{field: values[name]})
    return config
