"""One collective of a compiled program: along which axes it runs, and what each device sends.

    found = read_collective(op, computation, Network(mesh={"fsdp": 8, "tensor": 2}))
    found.kind, found.axes, found.wire_bytes

The bytes are those that each device sends over its links when the group of n is a ring, with b the
whole array:

    all-gather, reduce-scatter, all-to-all   b (n - 1) / n
    all-reduce                               2 b (n - 1) / n
    collective-permute                       b
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jaxlm.plan.hlo.groups import axes_of, crosses, groups, pairs
from jaxlm.plan.hlo.text import Computation, Op, Shape
from jaxlm.plan.hlo.traffic import COLLECTIVES


@dataclass(frozen=True, kw_only=True)
class Collective:
    """A collective of the program, as often as it runs."""

    kind: str
    axes: tuple[str, ...]  # mesh axes along which it runs
    size: int  # devices of a group
    slices: int  # that a group's devices are in; 1: all over ICI
    whole_bytes: float  # bytes of the whole array, once
    wire_bytes: float  # that a device sends, over all runs
    times: float = 1.0
    module: str = ""
    given: tuple[Shape, ...] = ()  # the arrays that a device puts in, once


@dataclass(frozen=True)
class Network:
    """The mesh and the slices of a program's devices."""

    mesh: Mapping[str, int]  # axes and their sizes, in the order of the devices
    slices: Sequence[int] = field(default=())  # the slice of each device; empty: all in one

    @property
    def num_devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def filled(self) -> float:
        """The share of a device's row buffer that is filled, if experts are split."""
        return 1.0 / self.mesh.get("expert", 1)

    @property
    def slice_of(self) -> Sequence[int]:
        return self.slices or [0] * self.num_devices


def is_collective(op: Op) -> bool:
    """Whether it runs over the fast network or begins to."""
    return op.opcode.removesuffix("-start") in COLLECTIVES


def chain_of(op: Op) -> tuple[str, str] | None:
    """The key shared by the computations through which a TPU carries one collective."""
    chain = re.search(r'chain_id="(\d+)"', op.attributes)
    return None if chain is None else (chain[1], op.attribute("channel_id") or "")


def read_collective(op: Op, computation: Computation, network: Network) -> Collective | None:
    """The collective of an instruction; None if it sends nothing."""
    kind = op.opcode.removesuffix("-start")
    if kind == "collective-permute":
        members = pairs(op.attribute("source_target_pairs") or "")
        members = members[members[:, 0] != members[:, 1]]
        if not len(members):
            return None
        size = 2
    else:
        text = op.attributes.split("replica_groups=", 1)
        members = groups(text[1] if len(text) > 1 else "{}", network.num_devices)
        size = members.shape[1]
    if size == 1:
        return None
    arrays = tuple(s for name in op.operands for s in computation.by_name[name].shapes)
    if kind == "ragged-all-to-all":  # (rows, room for them, sizes ...): of one side all is sent
        arrays = (min(arrays[:2], key=lambda shape: shape.num_bytes),)
    given = float(sum(shape.num_bytes for shape in arrays))
    if kind == "all-reduce" and _is_scattered(op, computation):
        kind = "reduce-scatter"
    whole = given * size if kind == "all-gather" else given
    return Collective(
        kind=kind,
        axes=axes_of(members, network.mesh),
        size=size,
        slices=crosses(members, network.slice_of),
        whole_bytes=whole,
        wire_bytes=wire_bytes(kind, whole, size),
        given=arrays,
    )


def read_between_slices(op: Op, computation: Computation, network: Network) -> Collective | None:
    """A collective over slices, which on TPUs is sent by way of the hosts; None without slices."""
    match = re.search(r'_xla_megascale_transfer_type="(\w+)"', op.attributes)
    kind = match[1].lower().replace("_", "-") if match else ""
    if kind not in COLLECTIVES:
        kind = "collective-permute"
    count = len(set(network.slice_of))
    if count == 1:
        return None
    arrays = computation.by_name[op.operands[0]].shapes
    given = float(sum(shape.num_bytes for shape in arrays))
    whole = given * count if kind == "all-gather" else given
    return Collective(
        kind=kind,
        axes=_axes_between(network),
        size=count,
        slices=count,
        whole_bytes=whole,
        wire_bytes=wire_bytes(kind, whole, count),
        given=arrays,
    )


def wire_bytes(kind: str, whole: float, size: int) -> float:
    """Bytes that each of `size` devices in a ring sends for one collective of a whole array."""
    if kind in ("collective-permute", "collective-broadcast"):
        return whole
    return (2.0 if kind == "all-reduce" else 1.0) * whole * (size - 1) / size


def _is_scattered(op: Op, computation: Computation) -> bool:
    """Whether a fused all-reduce keeps only this device's part: a reduce-scatter on TPUs."""
    if not computation.name.startswith("all-reduce-scatter"):
        return False
    return computation.root.shapes[0].size < op.shapes[0].size


def _axes_between(network: Network) -> tuple[str, ...]:
    """The axes along which the slice changes."""
    places = np.asarray(network.slice_of).reshape(tuple(network.mesh.values()))
    changes = [bool((np.diff(places, axis=n) != 0).any()) for n in range(places.ndim)]
    return tuple(axis for axis, does in zip(network.mesh, changes, strict=True) if does)
