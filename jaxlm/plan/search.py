"""Searches meshes, micro-batches, remat, offload and schedules for the fastest safe step.

    found = search(facts, topology, base)
    found[0].overrides, found[0].step

The analytic model evaluates all settings that divide the model and the batch; those that fit are
ranked by their time. For the best of them, variants are tried: parameters whole on each device
(ZeRO-1), circular pipelines. The caller compiles the first few if it can: the compiler decides
their order, and only what it confirms is called safe.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.kernels.context import context_kernels
from jaxlm.mesh import RULES
from jaxlm.plan.closed_form.analytic import Work, analyse
from jaxlm.plan.closed_form.facts import Facts
from jaxlm.plan.closed_form.setting import Setting, schedule_of
from jaxlm.plan.closed_form.stacks import Stack
from jaxlm.plan.devices import Topology
from jaxlm.plan.memory import ROOM, TIGHT
from jaxlm.plan.roofline import Roofline, Speed, roofline, speed

MOST_TENSOR = 16  # beyond, each part of a product is too small to be worth its all-reduce
MOST_CONTEXT = 32
MOST_ACCUMULATION = 16
STAGES = (2, 4, 8)
LONG = 8192  # tokens of a row from which on splitting the length is tried
REPEATS = (2, 4)  # more cut a stage's piece of layers too small to be worth its turns
VARIED = 200  # the best of the grid, whose variants are tried


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A setting and what the analytic model has for it."""

    setting: Setting
    stacks: tuple[Stack, ...]  # that it is of
    offload: bool  # the optimizer's state is offloaded
    work: Work
    roofline: Roofline
    speed: Speed

    @property
    def context(self) -> str:
        """The attention kernel for a split length."""
        return self.setting.context

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
        parts += schedule_of(
            s.mesh,
            zero=s.zero,
            repeats=s.stage_repeats,
            dcn=s.dcn,
            slices=s.tpu_slices,
            ring=self.context == "ring",
        )
        return ", ".join([*parts, *(["optimizer on hosts"] if self.offload else [])])


def search(facts: Facts, topology: Topology, base: Setting) -> list[Candidate]:
    """All candidates that have room, the fastest first; then those that are tight.

    Raises `UserError` where no setting has room.
    """
    trial = _Trial(facts, topology)
    tried = list(settings(facts, topology, base))
    if not tried:
        raise UserError(
            f"--search: no mesh of {topology} divides the model and a batch of {base.batch_size} "
            f"rows; set train.batch_size to a multiple of {topology.num_devices}"
        )
    found = [c for setting in tried for c in trial.candidates(setting)]
    if not found:
        raise UserError(
            f"--search: no mesh, remat or offload has room for this on {topology}, by the analytic "
            "model; take more or larger chips, or fewer tokens a step"
        )
    best = sorted(found, key=_rank)[:VARIED]
    for candidate in best:
        for setting in variants(facts, candidate.setting):
            found += trial.candidates(setting, as_it_is=True)
    return sorted(found, key=_rank)


def _rank(candidate: Candidate) -> tuple[bool, float]:
    return candidate.verdict not in ROOM, candidate.step


class _Trial:
    """Evaluates settings by the analytic model, with the choices that are not in a `Setting`."""

    def __init__(self, facts: Facts, topology: Topology) -> None:
        self.topology, self.step_flops = topology, facts.step_flops
        self.rings = rings(facts)
        self.facts = {  # by whether the optimizer's state waits on the hosts
            hosted: replace(
                facts,
                moments=tuple(replace(m, on_host=hosted and bool(m.axes)) for m in facts.moments),
            )
            for hosted in (False, True)
        }
        self.state: dict[tuple[Any, ...], float] = {}

    def candidates(self, setting: Setting, *, as_it_is: bool = False) -> Iterator[Candidate]:
        """The candidates that have room, with other ways to meet keys where that may matter."""
        contexts = dict.fromkeys((setting.context, *self.rings))
        split = setting.along("context") > 1 and not as_it_is
        for name in contexts if split else [setting.context]:
            setting = replace(setting, context=name)
            for offload, facts in self.facts.items():
                if self._state(facts, setting, offload) > self.topology.hbm_per_device:
                    continue  # without a look at the rest
                work = analyse(facts, setting, self.topology)
                if work.memory.verdict in (*ROOM, TIGHT):
                    line = roofline(work.load, self.topology)
                    yield Candidate(
                        setting=setting,
                        stacks=facts.stacks,
                        offload=offload,
                        work=work,
                        roofline=line,
                        speed=self._speed(work, line),
                    )
                    break  # what fits without the hosts' memory is never faster with it

    def _speed(self, work: Work, line: Roofline) -> Speed:
        return speed(
            line.step,
            self.topology,
            tokens_per_step=work.tokens_per_step,
            step_flops_per_token=self.step_flops,
            device_flops=work.device_flops,
        )

    def _state(self, facts: Facts, setting: Setting, offload: bool) -> float:
        """Bytes of parameters and optimizer on a device, which any step holds at least."""
        key = (*setting.mesh.values(), setting.zero, offload)
        if key not in self.state:
            whole = ("fsdp",) if setting.zero == 1 else ()
            params = sum(a.part(setting.mesh, without=whole) * a.itemsize for a in facts.params)
            moments = (a for a in facts.moments if not a.on_host)
            self.state[key] = params + sum(a.part(setting.mesh) * a.itemsize for a in moments)
        return self.state[key]


def rings(facts: Facts) -> tuple[str, ...]:
    """The other kernel for a split length, if it supports the model's attention."""
    ring = context_kernels.implementations["ring"]
    own = [look.asked for stack in facts.stacks for look in stack.looks if look.same_rows]
    names = ("bias", "dropout", "impl")
    able = all(ring.supports(**{name: asked[name] for name in names}) for asked in own)
    return ("ring",) if own and able else ()


def variants(facts: Facts, setting: Setting) -> Iterator[Setting]:
    """The same with parameters whole on each device, with stages passed several times, or both."""
    stages = setting.along("stage")
    repeats = [1]
    if stages > 1:
        repeats += [n for n in REPEATS if _cuts(facts, stages * n)]
    zeros = (3, 1) if setting.along("fsdp") > 1 else (setting.zero,)
    for zero, count in itertools.product(zeros, repeats):
        if (zero, count) != (setting.zero, setting.stage_repeats):
            yield replace(setting, zero=zero, stage_repeats=count)


def settings(facts: Facts, topology: Topology, base: Setting) -> Iterator[Setting]:
    """Every setting of the grid that divides."""
    for mesh, dcn in _placed(facts, topology, base):
        rows = base.batch_size / math.prod(mesh.get(a, 1) for a in ("data", "fsdp", "expert"))
        for accumulation in (1, 2, 4, 8, MOST_ACCUMULATION):
            if accumulation > rows:
                break
            if accumulation < mesh["stage"]:
                continue  # more stages than micro-batches idle most of the time
            changes: dict[str, Any] = {"dcn": dcn, "zero": 3, "stage_repeats": 1}
            setting = replace(base, mesh=mesh, accumulation=accumulation, **changes)
            if divides(facts, setting):
                for policy in remats(facts):
                    yield replace(setting, **policy)


def _placed(
    facts: Facts, topology: Topology, base: Setting
) -> Iterator[tuple[Mapping[str, int], str]]:
    """Every mesh, and the axis whose parts are in different slices.

    That is data or stage: weights of every layer go over the slow network only where the run's own
    config has it so, and neither of the two can.
    """
    if topology.slices == 1:
        yield from ((mesh, base.dcn) for mesh in meshes(facts, topology, base))
        return
    for dcn in dict.fromkeys(("data", "stage", base.dcn)):
        for mesh in meshes(facts, topology, replace(base, dcn=dcn)):
            if dcn != "fsdp" or all(mesh[a] % topology.slices for a in ("data", "stage")):
                yield mesh, dcn


def meshes(facts: Facts, topology: Topology, base: Setting) -> Iterator[Mapping[str, int]]:
    """Every arrangement of the devices that could make sense."""
    total = topology.num_devices
    experts: Any = next((x.experts for x in facts.layers if x.experts), None)
    tensors = [n for n in _divisors(total) if n <= MOST_TENSOR]
    long = facts.splits_length and max(stack.length for stack in facts.stacks) >= LONG
    contexts = [n for n in _divisors(total) if n <= MOST_CONTEXT and (n == 1 or long)]
    parts = [n for n in _divisors(total) if n == 1 or (experts and experts.num_experts % n == 0)]
    model: Any = facts.config.model
    equal = len(facts.layers) == 1 and model.pipelines
    stages = [n for n in (1, *STAGES) if n == 1 or (equal and _cuts(facts, n))]
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
    """The policies that are tried, of all stacks, from the dearest in memory on."""
    none: dict[str, Any] = {"saved": (), "offloaded": (), "others": ()}
    yield {"remat": "none", **none}
    if "dots" in facts.policies:
        yield {"remat": "dots", **none}
    known = facts.layers[0].tensors
    looks = tuple(n for n in ("query", "key", "value") if n in known)
    kept = (*looks, "attention", "attention_out")
    if len(looks) == 3 and "named" in facts.policies:
        yield none | {"remat": "named", "saved": kept}
        yield none | {"remat": "named", "offloaded": kept}
        yield none | {"remat": "named", "offloaded": looks}
    yield {"remat": "full", **none}


def divides(facts: Facts, setting: Setting) -> bool:
    """Whether a mesh divides every parameter, the lengths, each micro-batch, and the slices, and
    the layers can be its stages.
    """
    rows = setting.along("data", "fsdp", "expert")
    if setting.tpu_slices > 1 and setting.along(setting.dcn) % setting.tpu_slices:
        return False
    model: Any = facts.config.model
    if setting.along("stage") > 1 and not model.pipelines:
        return False
    if setting.batch_size % (rows * setting.accumulation):
        return False
    if any(stack.length % setting.along("context") for stack in facts.stacks):
        return False
    for array in facts.params:
        for axis, size in zip(array.axes, array.shape, strict=True):
            rule = RULES[axis] if axis is not None else None
            names = (rule,) if isinstance(rule, str) else (rule or ())
            if size % math.prod(setting.mesh.get(n, 1) for n in names):
                return False
    return True


def _cuts(facts: Facts, pieces: int) -> bool:
    """Whether the layers can be cut into so many equal pieces of whole periods."""
    return all(stack.count % (pieces * stack.period) == 0 for stack in facts.stacks)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
