"""The networks between devices, as one device sees them: who is in a group, and how far apart.

sender = Sender(facts, setting, topology)
sender.transfer("all-gather", ("fsdp",), whole=1e9)    # a `Transfer` of what this device sends
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from jaxlm.kernels.head_loss import MOST_TOKENS
from jaxlm.mesh import RULES
from jaxlm.plan.closed_form.facts import Facts
from jaxlm.plan.closed_form.setting import Setting
from jaxlm.plan.closed_form.stacks import Array, Stack
from jaxlm.plan.devices import Topology
from jaxlm.plan.hlo.collectives import wire_bytes
from jaxlm.plan.roofline import Transfer


class Sender:
    """The base of all counts of communication; `least`: a lower bound for any compiler."""

    def __init__(
        self, facts: Facts, setting: Setting, topology: Topology, *, least: bool = False
    ) -> None:
        self.facts, self.setting, self.topology, self.least = facts, setting, topology, least
        self.mesh, self.wide = setting.mesh, facts.itemsize
        self.tokens = setting.tokens(facts.seq_len)

    def stream(self, stack: Stack | None = None) -> float:
        """Bytes of the hidden states of a device's tokens, whole along tensor: those of a stack, or
        the input of the head.
        """
        if stack is None:
            return self.tokens * self.facts.hidden * self.wide
        return self.setting.stack_tokens(stack) * stack.hidden * self.wide

    @property
    def head_tokens(self) -> float:
        """The tokens of a step whose loss a device computes; a pipeline's stages share it."""
        return self.tokens / self.setting.along("stage")

    @property
    def splits_vocabulary(self) -> bool:
        """Whether the head's loss splits the vocabulary over fsdp, instead of gathering its kernel
        (`jaxlm.kernels.head_loss.splits_vocabulary`).
        """
        size = self.setting.along("fsdp")
        if size == 1 or self.setting.platform_on(self.topology) == "cpu":
            return False  # a CPU's loss is by tokens
        together = self.head_tokens / self.setting.rounds * size
        return together <= MOST_TOKENS * self.facts.vocab / self.setting.along("tensor")

    def transfer(self, kind: str, axes: tuple[str, ...], whole: float) -> Transfer:
        size = self.setting.along(*axes)
        spread = min(math.prod(map(self._spread, axes)), self.topology.fast_groups)
        return Transfer(
            kind=kind, axes=axes, size=size, slices=spread, wire_bytes=wire_bytes(kind, whole, size)
        )

    def _spread(self, axis: str) -> int:
        """The number of slices or nodes that a group of devices along one axis spans."""
        if self.topology.chip.is_tpu:
            return self.setting.slices if axis == self.setting.dcn else 1
        # GPUs fill the axes from the last one on: a node holds the fastest of them
        inner = 1
        for name in ("tensor", "context", "expert", "fsdp", "data", "stage"):
            size = self.setting.along(name)
            if name == axis:
                node = self.topology.devices_per_slice
                return max(1, -(-inner * size // max(node, inner)))
            inner *= size
        raise AssertionError(axis)


def ways_of(array: Array, mesh: Mapping[str, int], axis: str) -> int:
    """The number of parts that one axis of the mesh splits an array into."""
    return mesh.get(axis, 1) if axis in mesh_axes(array) else 1


def mesh_axes(array: Array) -> set[str]:
    """The mesh axes that an array's own axes are split over."""
    found: set[str] = set()
    for name in array.axes:
        rule = RULES[name] if name is not None else None
        found |= {rule} if isinstance(rule, str) else set(rule or ())
    return found
