"""The time of a compiled step by the compiler's schedule: its cycles, and waits for the network.

    found = scheduled(parse(compiled.as_text()), network, topology)
    found.step, found.core, found.waits, found.hidden

A TPU's compiler writes the expected cycles into each instruction, in the order of execution. This
module adds them up, instruction by instruction, loops as often as they run. An asynchronous
collective takes its ring's time from when the network is free; the core waits for what is left of
it at its done instruction. A synchronous one is waited for whole. Attention kernels have no cycles:
their time follows from their FLOPs.

It is the compiler's estimate, not a measurement: it compares schedules of the same step
(`tools/tune_xla.py`), and is a second estimate next to the roofline.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxlm.plan.devices import Topology
from jaxlm.plan.hlo.collectives import (
    Collective,
    Network,
    chain_of,
    is_collective,
    read_between_slices,
    read_collective,
)
from jaxlm.plan.hlo.kernels import ModelFacts, kernel_flops
from jaxlm.plan.hlo.loops import trip_count
from jaxlm.plan.hlo.parts import module_of
from jaxlm.plan.hlo.text import Computation, Module, Op
from jaxlm.plan.roofline import Transfer, attention_share, network_seconds

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NONE = 1 << 53  # cycles from which on a compiler says that it has no estimate


@dataclass
class StepSchedule:
    """Seconds of one step of one device."""

    core: float = 0.0  # that the core computes
    waits: float = 0.0  # that it waits for the network
    network: float = 0.0  # that the network sends
    core_by_module: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    waits_by_kind: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    unknown: int = 0  # instructions of which neither cycles nor FLOPs are known: counted as nothing

    @property
    def step(self) -> float:
        return self.core + self.waits

    @property
    def hidden(self) -> float:
        """Seconds of the network that the core worked through."""
        return max(0.0, self.network - self.waits)

    def add(self, other: StepSchedule, times: float) -> None:
        """Another part's seconds, `times` times."""
        self.core += other.core * times
        self.waits += other.waits * times
        self.network += other.network * times
        self.unknown += other.unknown
        for mine, theirs in (
            (self.core_by_module, other.core_by_module),
            (self.waits_by_kind, other.waits_by_kind),
        ):
            for name, seconds in theirs.items():
                mine[name] += seconds * times


def scheduled(
    module: Module, network: Network, topology: Topology, model: ModelFacts | None = None
) -> StepSchedule | None:
    """The schedule of a module's text; None where its compiler wrote no cycles."""
    clock = topology.chip.clock
    has_cycles = any(
        _CYCLES.search(op.attributes) for c in module.computations.values() for op in c.ops
    )
    if clock is None or not has_cycles:
        return None
    return _Clock(module, network, topology, clock, model or ModelFacts()).run(module.entry)


class _Clock:
    def __init__(
        self,
        module: Module,
        network: Network,
        topology: Topology,
        clock: float,
        model: ModelFacts,
    ) -> None:
        self.module, self.network, self.topology = module, network, topology
        self.clock, self.visible = clock, model.visible
        self.rate = topology.peak_per_device() * topology.chip.matmul
        self.rate *= attention_share(model.head_size)

    def run(self, computation: Computation) -> StepSchedule:
        """One run of a computation, from when the network is free."""
        total = StepSchedule()
        now = free = 0.0  # when the core is here, when the network has sent all it was given
        ends: dict[str, tuple[float, Collective]] = {}
        begun: set[tuple[str, str]] = set()
        for op in computation.ops:
            inner = self._inner(op, computation)
            if inner is not None:
                part, times = inner
                total.add(part, times)
                now += part.step * times
                continue
            awaited = self._awaited(op, computation, ends)
            if awaited is not None:
                end, sent = ends.pop(awaited)
                total.waits += max(0.0, end - now)
                total.waits_by_kind[sent.kind] += max(0.0, end - now)
                now = max(now, end)
            for sent in self._begun(op, computation, begun):
                seconds = self._seconds(sent)
                free = max(now, free) + seconds
                total.network += seconds
                if _is_split(op):
                    ends[op.name] = (free, sent)
                else:
                    total.waits += free - now
                    total.waits_by_kind[sent.kind] += free - now
                    now = free
            seconds = self._core(op, computation, total)
            total.core += seconds
            now += seconds
            if seconds:
                total.core_by_module[module_of(op)] += seconds
        return total

    def _inner(self, op: Op, computation: Computation) -> tuple[StepSchedule, float] | None:
        """The schedule that an instruction runs, if it has one of its own, and how often."""
        if op.opcode == "while":
            trips = trip_count(op, computation, self.module) or 1
            return self.run(self.module.computations[op.called[1]]), trips
        if op.opcode == "call":
            return self.run(self.module.computations[op.called[0]]), 1
        if op.opcode == "conditional":
            branches = [self.run(self.module.computations[name]) for name in op.called]
            return max(branches, key=lambda s: s.step), 1
        return None

    def _begun(
        self, op: Op, computation: Computation, begun: set[tuple[str, str]]
    ) -> Iterator[Collective]:
        """The collectives that an instruction begins or, not split in two, runs."""
        for inner, where in self._flat(op, computation):
            if is_collective(inner):
                chain = chain_of(inner)
                if chain is not None and chain in begun:
                    continue
                if chain is not None:
                    begun.add(chain)
                found = read_collective(inner, where, self.network)
            elif inner.opcode == "send" and "_xla_megascale_transfer_type" in inner.attributes:
                found = read_between_slices(inner, where, self.network)
            else:
                continue
            if found is not None:
                yield found

    def _flat(self, op: Op, computation: Computation) -> Iterator[tuple[Op, Computation]]:
        if op.opcode != "fusion":
            yield op, computation
            return
        called = self.module.computations[op.called[0]]
        for inner in called.ops:
            yield from self._flat(inner, called)

    def _awaited(
        self, op: Op, computation: Computation, ends: dict[str, tuple[float, Collective]]
    ) -> str | None:
        """The name of the start that this instruction waits for the end of."""
        if not ends or not ("-done" in op.opcode or op.name.startswith("async-collective-done")):
            return None
        seen, names = set[str](), list(op.operands)
        while names:  # through the elements of tuples, and the steps between start and end
            name = names.pop()
            if name in ends:
                return name
            if name in seen:
                continue
            seen.add(name)
            before = computation.by_name[name]
            if before.opcode in ("get-tuple-element", "tuple", "bitcast", "fusion"):
                names += before.operands
        return None

    def _seconds(self, sent: Collective) -> float:
        transfer = Transfer(
            kind=sent.kind,
            axes=sent.axes,
            size=sent.size,
            slices=sent.slices,
            wire_bytes=sent.wire_bytes,
        )
        ici, dcn = network_seconds([transfer], self.topology)
        return sum(ici.values()) + sum(dcn.values())

    def _core(self, op: Op, computation: Computation, total: StepSchedule) -> float:
        match = _CYCLES.search(op.attributes)
        if match is not None and int(match[1]) < _NONE:
            return int(match[1]) / self.clock
        total.unknown += match is not None
        if op.opcode != "custom-call":
            return 0.0
        flops, unknown = kernel_flops(op, computation, self.visible, self.network.filled)
        total.unknown += bool(unknown)
        return flops / self.rate


def _is_split(op: Op) -> bool:
    """Whether the instruction is asynchronous: another one waits for its end."""
    return (
        op.opcode.endswith("-start")
        or op.opcode == "send"
        or op.name.startswith("async-collective-start")
    )
