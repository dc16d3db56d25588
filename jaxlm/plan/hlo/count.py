"""Counts of one run of a compiled program: FLOPs, bytes of memory and network, by part of a model.

    counts = count(compiled.as_text(), mesh={"fsdp": 8, "tensor": 2})
    counts.flops, counts.hbm_bytes, counts.network("ici", "fsdp"), counts.by_module["ffn"].flops

A loop's body counts as often as it runs (a loop over filled rows as often as equally loaded experts
fill them), a conditional as its most expensive branch. FLOPs are those of products (dots,
convolutions, and attention kernels by their shapes). `jaxlm.plan.hlo.collectives` counts the bytes
of collectives.

Asynchronous pairs count once, and so does a collective that a TPU's compiler carries through
several fused computations, which share a chain_id. Instructions that could not be read are listed
in `notes`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jaxlm.kernels.filled import turns_of
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
from jaxlm.plan.hlo.parts import module_of, phase_of
from jaxlm.plan.hlo.text import Computation, Module, Op, Shape, parse
from jaxlm.plan.hlo.traffic import product_flops, traffic
from jaxlm.plan.roofline import Load, Piece, Transfer


@dataclass
class Cost:
    """Sums of one part."""

    flops: float = 0.0
    hbm_bytes: float = 0.0
    wire_bytes: float = 0.0


@dataclass
class Counts:
    """Sums of one run of a program, of one device."""

    flops_by_dtype: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    hbm_bytes: float = 0.0
    host_bytes: float = 0.0
    collectives: list[Collective] = field(default_factory=list)
    flops_by_part: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    by_module: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    by_phase: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    kernel_flops: float = 0.0  # FLOPs of attention kernels, included in flops_by_dtype
    pieces: list[Piece] = field(default_factory=list)  # one for each instruction that costs much
    notes: list[str] = field(default_factory=list)

    @property
    def flops(self) -> float:
        return sum(self.flops_by_dtype.values())

    @property
    def load(self) -> Load:
        """The load that a roofline is drawn from."""
        transfers = [
            Transfer(
                kind=c.kind, axes=c.axes, size=c.size, slices=c.slices, wire_bytes=c.wire_bytes
            )
            for c in self.collectives
        ]
        return Load(pieces=self.pieces, transfers=transfers, host_bytes=self.host_bytes)

    def wire_bytes(self, kind: str | None = None, axis: str | None = None) -> float:
        """Bytes that a device sends, of one kind of collective or along one axis."""
        return sum(
            c.wire_bytes
            for c in self.collectives
            if kind in (None, c.kind) and (axis is None or axis in c.axes)
        )


def count(
    text: str,
    *,
    mesh: Mapping[str, int],
    slices: Sequence[int] = (),
    visible: float | None = None,
) -> Counts:
    """The counts of a compiled module's text.

    `mesh`: its axes and their sizes, in the order of the devices. `slices`: the slice of each
    device; empty: one. `visible`: the share of all pairs of tokens that attention shows; None: a
    causal half.
    """
    return count_module(parse(text), Network(mesh, slices), ModelFacts(visible=visible))


def count_module(module: Module, network: Network, model: ModelFacts | None = None) -> Counts:
    """Like `count`, for a parsed module."""
    return _Counter(module, network, model or ModelFacts()).run()


class _Counter:
    def __init__(self, module: Module, network: Network, model: ModelFacts) -> None:
        self.module, self.network, self.model = module, network, model
        self.counts = Counts()
        self.chains: set[tuple[str, str]] = set()
        self.noted: set[str] = set()
        self.dtype = "bf16"  # the dtype of the last product

    def run(self) -> Counts:
        self._walk(self.module.entry, 1.0)
        return self.counts

    def _walk(self, computation: Computation, times: float) -> None:
        """Adds what a computation costs when it runs `times` times."""
        for op in computation.ops:
            if op.opcode == "while":
                trips: float | None = trip_count(op, computation, self.module)
                turns = turns_of(op.op_name)
                if trips is None and turns is not None:
                    trips = max(1.0, turns * self.network.filled)
                if trips is None:
                    self._note(f"loop {op.name}: its trips could not be read; counted once")
                self._walk(self.module.computations[op.called[1]], times * (trips or 1))
            elif op.opcode in ("call", "async-start"):
                for name in op.called:
                    self._walk(self.module.computations[name], times)
            elif op.opcode == "conditional":
                self._dearest(op, times)
            else:
                self._add(op, computation, times)

    def _dearest(self, op: Op, times: float) -> None:
        """Counts the most expensive branch of a conditional."""
        found = []
        for name in op.called:
            one = _Counter(self.module, self.network, self.model)
            one.chains = set(self.chains)
            one._walk(self.module.computations[name], 1.0)
            found.append((one.counts.flops, one.counts.hbm_bytes, name))
        self._walk(self.module.computations[max(found)[2]], times)

    def _add(self, op: Op, computation: Computation, times: float) -> None:
        module, phase = module_of(op), phase_of(op)
        hbm, host = traffic(op, computation, self.module, self.network.filled)
        self.counts.hbm_bytes += hbm * times
        self.counts.host_bytes += host * times
        for cost in (self.counts.by_module[module], self.counts.by_phase[phase]):
            cost.hbm_bytes += hbm * times
        flops, kernels = self.counts.flops, self.counts.kernel_flops
        self.dtype = "bf16"
        self._products(op, computation, times, op)
        flops = self.counts.flops - flops
        if flops or hbm:
            self.counts.pieces.append(
                Piece(
                    flops=flops,
                    kernel_flops=self.counts.kernel_flops - kernels,
                    hbm_bytes=hbm * times,
                    dtype=self.dtype,
                    head_size=self.model.head_size,
                    expert_width=self.model.expert_width if module == "experts" else None,
                )
            )

    def _products(self, op: Op, computation: Computation, times: float, outer: Op) -> None:
        """FLOPs and collectives of an instruction, and of what is fused in it."""
        if op.opcode == "fusion":
            called = self.module.computations[op.called[0]]
            for inner in called.ops:
                self._products(inner, called, times, outer)
            return
        if is_collective(op):
            self._collective(op, computation, times, outer)
            return
        if op.opcode == "send" and "_xla_megascale_transfer_type" in op.attributes:
            self._between_slices(op, computation, times)
            return
        if op.opcode in ("dot", "convolution"):
            shape_of = _shapes_in(computation)
            flops = product_flops(op, shape_of)
            self._flops(flops * times, shape_of(op.operands[0]).dtype, op, outer)
        elif op.opcode == "custom-call":
            flops, unknown = kernel_flops(op, computation, self.model.visible, self.network.filled)
            if unknown:
                self._note(f"custom call {unknown}: its FLOPs are not known, 0 were counted")
            if flops:
                self.counts.kernel_flops += flops * times
                self._flops(flops * times, "bf16", op, outer)

    def _flops(self, flops: float, dtype: str, op: Op, outer: Op) -> None:
        op = op if op.op_name else outer
        part = module_of(op)
        self.counts.flops_by_dtype[dtype] += flops
        self.counts.flops_by_part[part, dtype] += flops
        self.dtype = dtype
        self.counts.by_module[part].flops += flops
        self.counts.by_phase[phase_of(op)].flops += flops

    def _collective(self, op: Op, computation: Computation, times: float, outer: Op) -> None:
        chain = chain_of(op)
        if chain is not None:  # one collective, carried through several computations
            if chain in self.chains:
                return
            self.chains.add(chain)
        found = read_collective(op, computation, self.network)
        if found is not None:
            own = op if op.op_name else outer
            self._sent(found, times, own, phase_of(own))

    def _between_slices(self, op: Op, computation: Computation, times: float) -> None:
        found = read_between_slices(op, computation, self.network)
        if found is None:
            self._note(f"{op.name} sends to other slices, but none were given: not counted")
            return
        self._sent(found, times, op, phase_of(op))

    def _sent(self, found: Collective, times: float, op: Op, phase: str) -> None:
        name = module_of(op)
        wire = found.wire_bytes * times
        self.counts.collectives.append(replace(found, wire_bytes=wire, times=times, module=name))
        self.counts.by_module[name].wire_bytes += wire
        self.counts.by_phase[phase].wire_bytes += wire

    def _note(self, text: str) -> None:
        if text not in self.noted:
            self.noted.add(text)
            self.counts.notes.append(text)


def _shapes_in(computation: Computation) -> Callable[[str], Shape]:
    return lambda name: computation.by_name[name].shapes[0]
