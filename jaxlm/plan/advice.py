"""Proposed changes to a run: the better ones of the neighbouring settings, by the analytic model.

Each proposal is one override of the config, or several that belong together, with the analytic
model's memory and time for it, relative to those of the run as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from jaxlm.plan.closed_form.analytic import Work, analyse
from jaxlm.plan.closed_form.facts import Facts
from jaxlm.plan.closed_form.setting import Setting
from jaxlm.plan.devices import Topology
from jaxlm.plan.memory import ROOM, MemoryPlan
from jaxlm.plan.roofline import roofline

SHOWN = 4


@dataclass(frozen=True)
class Proposal:
    """A change and what it does."""

    overrides: tuple[str, ...]
    memory: float  # bytes of a device
    step: float
    verdict: str


def proposals(
    facts: Facts, setting: Setting, topology: Topology, known: MemoryPlan | None = None
) -> list[Proposal]:
    """The best changes, fastest first; `known`: bytes of the compiled step, if there is one.

    For a run that fits: changes that make it faster and still fit. Otherwise: changes that make it
    fit, and where no single one does, two of them together. The difference between compiled and
    analytic memory is assumed not to change.
    """
    now = analyse(facts, setting, topology)
    step = roofline(now.load, topology).step
    memory = now.memory if known is None else known
    unseen, most = max(0.0, memory.needed - now.memory.total), memory.share * memory.limit
    needs_room = memory.verdict not in ROOM

    def good(changes: Iterable[tuple[tuple[str, ...], Setting]]) -> list[Proposal]:
        found = []
        for overrides, changed in changes:
            work = _try(facts, changed, topology)
            if work is None:
                continue
            needed = work.memory.total + unseen
            fits = needed <= most
            fits &= not needs_room or work.memory.total < now.memory.total
            line = roofline(work.load, topology)
            if fits and (needs_room or line.step < 0.99 * step):
                found.append(Proposal(overrides, needed, line.step, work.memory.verdict))
        return sorted(found, key=lambda p: p.step)[:SHOWN]

    found = good(neighbours(facts, setting))
    return found if found or not needs_room else good(_pairs(facts, setting))


def _try(facts: Facts, setting: Setting, topology: Topology) -> Work | None:
    from jaxlm.plan.search import divides

    return analyse(facts, setting, topology) if divides(facts, setting) else None


def _pairs(facts: Facts, setting: Setting) -> Iterator[tuple[tuple[str, ...], Setting]]:
    """(overrides, setting) two steps away, that change different keys; each setting once."""
    seen = []
    for first, between in neighbours(facts, setting):
        for second, changed in neighbours(facts, between):
            keys = [override.partition("=")[0] for override in (*first, *second)]
            if len({*keys}) == len(keys) and changed not in seen:
                seen.append(changed)
                yield (*first, *second), changed


def neighbours(facts: Facts, setting: Setting) -> Iterator[tuple[tuple[str, ...], Setting]]:
    """(overrides, setting) a step away."""
    paths = dict.fromkeys(stack.path for stack in facts.stacks)
    for policy in ("none", "dots", "full"):
        if policy in facts.policies and (policy != setting.remat or setting.others):
            plain = ("saved=[]", "offloaded=[]") if _names(setting) else ()
            yield (
                _everywhere(paths, f"remat={policy}", *plain),
                replace(setting, remat=policy, saved=(), offloaded=(), others=()),
            )
    for names in (("query", "key", "value"), ("query", "key", "value", "attention_out")):
        known = "named" in facts.policies and all(n in facts.layers[0].tensors for n in names)
        if known and (set(names) != set(setting.offloaded) or setting.others):
            listed = ",".join(names)
            yield (
                _everywhere(paths, "remat=named", f"offloaded=[{listed}]", "saved=[]"),
                replace(setting, remat="named", offloaded=names, saved=(), others=()),
            )
    for count in _accumulations(setting):
        yield (f"train.accumulation={count}",), replace(setting, accumulation=count)
    if setting.zero == 1:
        yield ("mesh.zero=3",), replace(setting, zero=3)
    for source in setting.mesh:
        for target in ("data", "fsdp", "tensor", "context"):
            if source == target or setting.along(source) % 2 or setting.along(source) == 1:
                continue
            if target == "context" and not facts.splits_length:
                continue
            mesh = dict(setting.mesh)
            mesh[source], mesh[target] = mesh[source] // 2, mesh.get(target, 1) * 2
            yield (
                (f"mesh.{source}={mesh[source]}", f"mesh.{target}={mesh[target]}"),
                replace(setting, mesh=mesh),
            )


def _accumulations(setting: Setting) -> list[int]:
    """Other numbers of micro-batches: half, a quarter, and doubles of it down to a row a device."""
    now = setting.accumulation
    rows = setting.batch_size // setting.along("data", "fsdp", "expert")
    more = [now * 2**k for k in range(1, 32) if now * 2**k <= rows]
    return [*more, *(now // k for k in (2, 4) if now % k == 0)]


def _names(setting: Setting) -> bool:
    """Whether a stack keeps tensors that it names."""
    return "named" in (setting.remat, *(remat.policy for _, remat in setting.others))


def _everywhere(paths: Iterable[str], *overrides: str) -> tuple[str, ...]:
    """The same overrides for several parts of the config."""
    return tuple(f"{path}.{override}" for path in paths for override in overrides)
