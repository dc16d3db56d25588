"""Looks over meshes, micro-batches, remat and offload for the fastest step that is safe.

    found = search(facts, topology, base)
    found[0].overrides, found[0].step

All settings that divide the model and the batch go through the analytic model; those that have
room by it are ranked by their time. The caller compiles the first few, where it can: the order of
what was compiled is the compiler's, and only what it confirms is called safe.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxlm.config import UserError
from jaxlm.mesh import AXES, RULES
from jaxlm.plan.analytic import Work, analyse
from jaxlm.plan.devices import Topology
from jaxlm.plan.facts import Facts
from jaxlm.plan.memory import ROOM, TIGHT
from jaxlm.plan.roofline import Roofline, roofline
from jaxlm.plan.setting import Setting
from jaxlm.run import RunConfig

MOST_TENSOR = 16  # beyond, each part of a product is too small to be worth its all-reduce
MOST_CONTEXT = 32
MOST_ACCUMULATION = 16
STAGES = (2, 4, 8)
LONG = 8192  # tokens of a row from which on splitting the length is tried


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A setting and what the analytic model has for it."""

    setting: Setting
    offload: bool  # of the optimizer's state
    work: Work
    roofline: Roofline

    @property
    def step(self) -> float:
        return self.roofline.step

    @property
    def verdict(self) -> str:
        return self.work.memory.verdict

    @property
    def label(self) -> str:
        s = self.setting
        mesh = " ".join(f"{a}={n}" for a, n in s.mesh.items() if n > 1) or "one device"
        keeps = f"{s.remat}"
        if s.remat == "named":
            keeps += f" ({', '.join((*s.saved, *(f'{n}>host' for n in s.offloaded)))})"
        plural = "es" if s.accumulation > 1 else ""
        parts = [mesh, f"remat {keeps}", f"{s.accumulation} micro-batch{plural}"]
        return ", ".join([*parts, *(["optimizer on hosts"] if self.offload else [])])


def search(facts: Facts, topology: Topology, base: Setting) -> list[Candidate]:
    """All candidates that have room, the fastest first; then those that are tight.

    Raises `UserError` where no setting has room.
    """
    found: list[Candidate] = []
    moments = facts.moments
    hosted = tuple(replace(m, on_host=bool(m.axes)) for m in moments)
    plain = tuple(replace(m, on_host=False) for m in moments)
    variants = ((False, replace(facts, moments=plain)), (True, replace(facts, moments=hosted)))
    for setting in settings(facts, topology, base):
        for offload, own in variants:
            work = analyse(own, setting, topology)
            if work.memory.verdict in (*ROOM, TIGHT):
                line = roofline(work.load, topology)
                found.append(Candidate(setting=setting, offload=offload, work=work, roofline=line))
                break  # what fits without the hosts' memory is never faster with it
    if not found:
        raise UserError(
            f"--search: no mesh, remat or offload has room for this on {topology}, by the analytic "
            "model; take more or larger chips, or fewer tokens a step"
        )
    return sorted(found, key=lambda c: (c.verdict not in ROOM, c.step))


def settings(facts: Facts, topology: Topology, base: Setting) -> Iterator[Setting]:
    """Every setting that divides."""
    for mesh in meshes(facts, topology, base):
        rows = base.batch_size / math.prod(mesh.get(a, 1) for a in ("data", "fsdp", "expert"))
        for accumulation in (1, 2, 4, 8, MOST_ACCUMULATION):
            if accumulation > rows:
                break
            if accumulation < mesh["stage"]:
                continue  # more stages than micro-batches idle most of the time
            setting = replace(base, mesh=mesh, accumulation=accumulation)
            if divides(facts, setting):
                for how in remats(facts):
                    yield replace(setting, **how)


def meshes(facts: Facts, topology: Topology, base: Setting) -> Iterator[Mapping[str, int]]:
    """Every arrangement of the devices that could make sense."""
    total = topology.num_devices
    experts: Any = next((x.experts for x in facts.layers if x.experts), None)
    tensors = [n for n in _divisors(total) if n <= MOST_TENSOR]
    contexts = [
        n for n in _divisors(total) if n <= MOST_CONTEXT and (n == 1 or facts.seq_len >= LONG)
    ]
    parts = [n for n in _divisors(total) if n == 1 or (experts and experts.num_experts % n == 0)]
    model: Any = facts.config.model
    alike = len(facts.layers) == 1 and model.pipelines
    stages = [n for n in (1, *STAGES) if n == 1 or (alike and facts.layers[0].count % n == 0)]
    slices = topology.slices
    for stage, tensor, context, expert in itertools.product(stages, tensors, contexts, parts):
        if total % (stage * tensor * context * expert):
            continue
        rest = total // (stage * tensor * context * expert)
        for fsdp in _divisors(rest):
            data = rest // fsdp
            if slices > 1 and {"data": data, "fsdp": fsdp, "stage": stage}[base.dcn] % slices:
                continue
            sizes = {"stage": stage, "data": data, "fsdp": fsdp, "expert": expert}
            yield {**sizes, "context": context, "tensor": tensor}


def remats(facts: Facts) -> Iterator[dict[str, Any]]:
    """The policies that are tried, from the dearest in memory on."""
    none: dict[str, Any] = {"saved": (), "offloaded": ()}
    yield {"remat": "none", **none}
    yield {"remat": "dots", **none}
    known = facts.layers[0].tensors
    looks = tuple(n for n in ("query", "key", "value") if n in known)
    kept = (*looks, "attention", "attention_out")
    if len(looks) == 3:
        yield {"remat": "named", "saved": kept, "offloaded": ()}
        yield {"remat": "named", "saved": (), "offloaded": kept}
        yield {"remat": "named", "saved": (), "offloaded": looks}
    yield {"remat": "full", **none}


def divides(facts: Facts, setting: Setting) -> bool:
    """Whether a mesh divides every parameter, the length, each micro-batch, and the slices."""
    rows = setting.along("data", "fsdp", "expert")
    if setting.tpu_slices > 1 and setting.along(setting.dcn) % setting.tpu_slices:
        return False
    if setting.batch_size % (rows * setting.accumulation):
        return False
    if facts.seq_len % setting.along("context"):
        return False
    for array in facts.params:
        for axis, size in zip(array.axes, array.shape, strict=True):
            rule = RULES[axis] if axis is not None else None
            names = (rule,) if isinstance(rule, str) else (rule or ())
            if size % math.prod(setting.mesh.get(n, 1) for n in names):
                return False
    return True


def overrides_of(candidate: Candidate, config: RunConfig, topology: Topology) -> RunConfig:
    """The config with a candidate's setting, meant for the pod that was searched for."""
    s, model = candidate.setting, config.model
    mesh = config.mesh.replace(
        **{axis: s.mesh.get(axis, 1) for axis in AXES},
        zero=s.zero,
        num_devices=None,  # a candidate takes all there are
        topology=str(topology),
    )
    optimizer: Any = config.optimizer
    return config.replace(
        mesh=mesh,
        model=model.replace(remat=s.remat, saved=s.saved, offloaded=s.offloaded),
        train=config.train.replace(accumulation=s.accumulation),
        optimizer=optimizer.replace(offload=candidate.offload),
    )


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
