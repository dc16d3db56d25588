"""The arrays that a step sends on purpose, as one device holds them, by their dims and dtypes.

known = Known(facts, setting, topology)
known.gradients[1024, 4096]      # the dtypes in which such an array's gradient is sent
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from jaxlm.kernels.head_loss import CHUNK
from jaxlm.mesh import RULES
from jaxlm.plan.closed_form.facts import Facts
from jaxlm.plan.closed_form.sender import Sender, mesh_axes
from jaxlm.plan.closed_form.setting import Setting
from jaxlm.plan.closed_form.stacks import Array, ways
from jaxlm.plan.devices import Topology
from jaxlm.plan.hlo.text import Shape

LANES = 128  # columns of a tile
FSDP = ("fsdp",)


@dataclass(frozen=True)
class Known:
    """The arrays that a step sends on purpose, as one device holds them."""

    facts: Facts
    setting: Setting
    topology: Topology

    @property
    def dtype(self) -> str:
        """The compute dtype."""
        return self.facts.dtype

    @cached_property
    def tokens(self) -> float:
        """Tokens of a device in one micro-batch."""
        return self.setting.tokens(self.facts.seq_len) / self.setting.accumulation

    @cached_property
    def parts(self) -> dict[tuple[int, ...], set[str]]:
        """Parameters that fsdp splits, as a device keeps them: dims -> dtypes they are sent in.

        What is multiplied is cast before; biases and a router may go as they are, in float32.
        """
        return self._dims((), lambda a: {self.dtype} if is_matrix(a) else {self.dtype, "f32"})

    @cached_property
    def gradients(self) -> dict[tuple[int, ...], set[str]]:
        """Gradients of the same before they are split: a router's and a head's are float32."""

        def dtypes(a: Array) -> set[str]:
            if a.path == "embed/table":
                return {self.dtype, "f32"} if self.facts.tied else {self.dtype}
            return {"f32"} if "router" in a.path or "unembed" in a.path else {self.dtype}

        found = self._dims(FSDP, dtypes)
        head, parts = "embed/table" if self.facts.tied else "unembed/kernel", self.size("fsdp")
        for a in self.facts.params:
            if a.path == head:  # by hand: the parts are a dim of their own
                rest = math.prod(self._held(a, FSDP)) // self.facts.hidden
                found[plain((parts, self.facts.hidden // parts, rest))] = {"f32"}
            if a.path.startswith("position") and self.size("stage") > 1:
                # the partitioner lets each stage sum some columns of what all of them looked up
                found[plain((a.shape[0], a.shape[1] // self.size("stage")))] = {self.dtype}
        return found

    @cached_property
    def narrow(self) -> set[tuple[int, ...]]:
        """The dims of gradients, before they are split, whose parts are not whole tiles."""
        return self._whole(lambda a, part: part % LANES != 0)

    @cached_property
    def tables(self) -> set[tuple[int, ...]]:
        """The dims of gradients, before they are split, of what multiplies no activation."""
        return self._whole(lambda a, part: a.path.endswith("table") or not is_matrix(a))

    @cached_property
    def head(self) -> float:
        """Elements of a device's part of the head."""
        vocab = self.facts.vocab / self.size("tensor")
        return vocab * self.facts.hidden / self.size("fsdp")

    def _whole(self, asked: Callable[[Array, int], bool]) -> set[tuple[int, ...]]:
        """The dims, whole along fsdp, of arrays by what is asked of them and of fsdp's part."""
        found = set()
        for a in self.facts.params:
            parts = [n for n, axis in zip(self._held(a, ()), a.axes, strict=True) if is_split(axis)]
            if parts and asked(a, parts[0]):
                held = self._held(a, FSDP)
                found |= {plain(held), *([plain(held[1:])] if a.axes[0] == "layers" else [])}
        return found

    @cached_property
    def rows_of_parts(self) -> set[tuple[int, ...]]:
        """The dims of what fsdp splits without the dim that it splits."""
        return {
            plain(n for n, x in zip(self._held(a, ()), a.axes, strict=True) if not is_split(x))
            for a in self.facts.params
            if any(map(is_split, a.axes))
        }

    def experts(self, whole: tuple[str, ...] = ()) -> set[tuple[int, ...]]:
        """The dims of experts' kernels of a layer on a device, whole along these axes."""
        return {plain(self._held(a, whole)[1:]) for a in self.facts.params if is_expert(a)}

    def table(self, whole: tuple[str, ...]) -> tuple[int, ...]:
        """The dims of the embedding's table on a device, whole along these axes of the mesh."""
        (table,) = (a for a in self.facts.params if a.path == "embed/table")
        return plain(self._held(table, whole))

    def _dims(
        self, whole: tuple[str, ...], dtypes: Callable[[Array], set[str]]
    ) -> dict[tuple[int, ...], set[str]]:
        found: dict[tuple[int, ...], set[str]] = defaultdict(set)
        for a in self.facts.params:
            if "fsdp" in mesh_axes(a):
                held = self._held(a, whole)
                found[plain(held)] |= dtypes(a)
                if a.axes[0] == "layers":
                    found[plain(held[1:])] |= dtypes(a)
        return dict(found)

    def _held(self, a: Array, whole: tuple[str, ...]) -> list[int]:
        """The dims of what a device has of an array."""
        mesh = self.setting.mesh
        return [n // ways(x, mesh, whole) for n, x in zip(a.shape, a.axes, strict=True)]

    def is_stream(self, shape: Shape) -> bool:
        """Whether it is hidden states: a micro-batch's, split along tensor, or a stage's."""
        one = self.tokens * self.facts.hidden
        whole = one * self.setting.accumulation / self.size("stage")
        return shape.size in (one / self.size("tensor"), whole)

    def is_head_chunk(self, shape: Shape) -> bool:
        """Whether it is the hidden states whose logits a head's loss has at a time, where devices
        along fsdp share the vocabulary."""
        if not Sender(self.facts, self.setting, self.topology).splits_vocabulary:
            return False
        part = min(CHUNK, self.facts.seq_len) / self.facts.seq_len
        return shape.size == self.tokens * part * self.facts.hidden

    def is_key(self, shape: Shape) -> bool:
        """Whether it is a device's keys or values of a layer, [B, S, K, H]."""
        tensors, mesh = self.facts.layers[0].tensors, self.setting.mesh
        own = [tensors[name] for name in ("key", "value") if name in tensors]
        dims = [tuple(n // ways(axis, mesh) for axis, n in sizes) for sizes in own]
        return any(
            shape.dims[-len(d) :] == d and shape.size == self.tokens * math.prod(d) for d in dims
        )

    def size(self, axis: str) -> int:
        return self.setting.along(axis)


def is_matrix(a: Array) -> bool:
    return a.path.endswith(("kernel", "table", "blocks")) and "router" not in a.path


def is_split(axis: str | None) -> bool:
    """Whether fsdp splits a logical axis."""
    return axis is not None and RULES[axis] == "fsdp"


def is_expert(a: Array) -> bool:
    return "experts" in a.axes and is_matrix(a)


def plain(dims: Iterable[int]) -> tuple[int, ...]:
    """Dims whose order a compiler may change, without those of size one."""
    return tuple(sorted(int(n) for n in dims if n != 1))
