"""What of the weights a device sends in a step: parameters gathered, gradients summed.

    for transfer in Weights(facts, setting, topology).sent(): ...

fsdp gathers the weights of a layer's maps twice in the compute dtype and reduce-scatters their
gradients, in every pass through the layers; the embedding and the head are gathered once a step.
What a loop over time multiplies with is gathered whole, along tensor as well, and its gradient is
summed in float32. Where the rows that were looked up are fewer than the embedding's, their
gradients go to the devices that have its columns instead of the table's. Over all other axes of the
batch, what is left of gradients is all-reduced at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from jaxlm.plan.closed_form.sender import Sender, mesh_axes, ways_of
from jaxlm.plan.closed_form.stacks import Array, LinearMap, Stack, ways
from jaxlm.plan.roofline import Transfer

WINDOWED = 32  # devices up to which the compiler sums in turns beside the product (libtpu 0.0.42)


class Weights(Sender):
    """The part of `jaxlm.plan.closed_form.transfers` that is of the weights."""

    def sent(self) -> Iterator[Transfer]:
        """Parameters gathered, gradients summed."""
        by_columns = {stack.path: list(self._rows(stack)) for stack in self.facts.stacks}
        loops = {m.array.path: stack for stack, m in self._maps() if m.steps > 1}
        for array in self.facts.params:
            if array.path in loops:
                yield from self._looped(array, loops[array.path])
                continue
            layered = array.layered
            micro = self.setting.passes if layered else self.setting.rounds
            split = ways_of(array, self.mesh, "fsdp")
            own = array.size / self._ways_but(array, "fsdp")  # what one device holds when gathered
            matrix = array.path.endswith(("kernel", "table"))
            readers = [s.path for s in self.facts.stacks if s.table == array.path]
            looked_up = bool(readers) and all(by_columns[path] for path in readers)
            left = own * self._gradient_bytes(array) * micro
            summed = left - looked_up * own * self.wide * micro
            if split > 1 and self.setting.zero == 3:
                # what is read once in a pass stays gathered from one micro-batch to the next
                times = 2 * micro if layered else 1
                wide = self.wide if matrix and "router" not in array.path else array.itemsize
                yield self.transfer("all-gather", ("fsdp",), own * wide * times)
                yield self.transfer(self._sum(array), ("fsdp",), summed)
            elif split > 1:  # ZeRO-1
                yield self.transfer(self._sum(array), ("fsdp",), summed)
                yield self.transfer("all-gather", ("fsdp",), own * array.itemsize)
            if split > 1:
                left /= split
            # what is whole on several devices is summed over all of them at once
            axes = ("data", "fsdp", "expert", "context", *(() if matrix else ("tensor",)))
            own_axes = mesh_axes(array)
            others = tuple(a for a in axes if self.setting.along(a) > 1 and a not in own_axes)
            if others:
                yield self.transfer("all-reduce", others, left)
        for rows in by_columns.values():
            yield from rows

    def _looped(self, array: Array, stack: Stack) -> Iterator[Transfer]:
        """What a loop over time multiplies with: whole on every device before it, as its gradient
        is behind it, in float32.
        """
        micro = self.setting.passes
        times = micro * (1 if self.setting.kept(stack).policy == "none" else 2)
        zero = ("fsdp",) if self.setting.zero == 1 else ()
        axes = [a for a in ("fsdp", "tensor") if self.setting.along(a) > 1]
        split = tuple(a for a in axes if a in mesh_axes(array) and a not in zero)
        if split:
            yield self.transfer("all-gather", split, array.size * self.wide * times)
        fsdp = self.setting.along("fsdp")
        if fsdp > 1:
            yield self.transfer("reduce-scatter", ("fsdp",), 4 * array.size * micro)
            if zero:
                whole = array.size / self.setting.along("tensor") * array.itemsize
                yield self.transfer("all-gather", ("fsdp",), whole)
        others = tuple(a for a in ("data", "expert") if self.setting.along(a) > 1)
        if others:
            yield self.transfer("all-reduce", others, 4 * array.size * micro / fsdp)

    def _maps(self) -> Iterator[tuple[Stack, LinearMap]]:
        for stack in self.facts.stacks:
            for layers in stack.layers:
                yield from ((stack, m) for m in layers.maps)

    def _rows(self, stack: Stack) -> Iterator[Transfer]:
        """Gradients of the rows that were looked up, to the devices that have their columns.

        In place of the table's, where the engine has it so (`jaxlm.mesh.gradient_by_columns`).
        """
        size, tokens = self.setting.along("fsdp"), self.setting.stack_tokens(stack)
        (table,) = (a for a in self.facts.params if a.path == stack.table)
        rows = table.shape[0] / self.setting.along("tensor")
        lengths = ("context",) if stack.splits_length else ()  # else they are counted already
        together = tokens / self.setting.rounds * self.setting.along("data", *lengths)
        if size > 1 and self.setting.along("expert") == 1 and together <= rows:
            looked_up = tokens * table.shape[1] * self.wide
            yield self.transfer("all-to-all", ("fsdp",), looked_up)
            yield self.transfer("all-gather", ("fsdp",), tokens * size * 4)  # their numbers

    def _sum(self, array: Array) -> str:
        """How a gradient is summed that fsdp splits.

        Over all chips of a slice libtpu takes its all-reduce, which uses every link of the torus
        and sends twice what has to be sent; each device keeps its part. Of a single small slice
        alone it sums a layer's maps in turns, beside the products that make them.
        """
        size = self.setting.along("fsdp")
        in_turns = array.layered and size <= WINDOWED
        in_turns &= self.topology.slices == 1
        whole = self.topology.chip.is_tpu and size == self.topology.devices_per_slice
        return "all-reduce" if whole and not in_turns and not self.least else "reduce-scatter"

    def _gradient_bytes(self, array: Array) -> int:
        """Of an element as it is summed over devices: the head's are float32, a tied one's two."""
        if array.path == "embed/table":
            return self.wide + 4 * self.facts.tied
        in_float32 = any(word in array.path for word in ("unembed", "norm", "router"))
        return 4 if in_float32 else self.wide

    def _ways_but(self, array: Array, axis: str) -> int:
        return math.prod(ways(a, self.mesh, (axis,)) for a in array.axes)
