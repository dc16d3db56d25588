"""The communication of weights in a step: all-gathers of parameters, sums of gradients.

    for transfer in Weights(facts, setting, topology).sent(): ...

fsdp gathers the weights of a layer's maps twice in the compute dtype and reduce-scatters their
gradients, in every pass through the layers; the embedding and the head are gathered once a step.
The weights of a loop over time are all-gathered whole, along tensor as well, and their gradient is
summed in float32. If fewer rows are looked up than the embedding has, they come from the devices
that have its columns, and their gradients go back there, instead of the table and its gradient. If
few tokens meet the head, it gathers them instead of its kernel. Over all other axes of the batch
the remaining gradients are all-reduced together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from jaxlm.plan.closed_form.facts import EIGHT_BITS
from jaxlm.plan.closed_form.sender import Sender, mesh_axes, ways_of
from jaxlm.plan.closed_form.stacks import Array, LinearMap, Stack, ways
from jaxlm.plan.roofline import Transfer

WINDOWED = 32  # most devices whose ring sums libtpu 0.0.42 overlaps with the matmul


class Weights(Sender):
    """The part of `jaxlm.plan.closed_form.transfers` for weights."""

    def sent(self) -> Iterator[Transfer]:
        """Parameters gathered, gradients summed."""
        by_columns = {stack.path: list(self._rows(stack)) for stack in self.facts.stacks}
        loops = {m.array.path: stack for stack, m in self._maps() if m.steps > 1}
        quantized = self._quantized()
        head = ("embed/table" if self.facts.tied else "unembed/kernel", self.splits_vocabulary)
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
            trained = array.path not in self.facts.frozen
            left = own * self._gradient_bytes(array) * micro * trained
            summed = left - looked_up * own * self.wide * micro * trained
            by_columns_too = looked_up and self._moves_columns
            read_whole = not by_columns_too
            if array.path == head[0]:
                summed -= head[1] * own * 4 * micro * trained
                read_whole = not head[1] or (bool(readers) and not by_columns_too)
            if split > 1 and self.setting.zero == 3:
                # Weights that a pass reads once stay gathered from one micro-batch to the next.
                times = 2 * micro if layered else int(read_whole)
                wide = self.wide if matrix and "router" not in array.path else array.itemsize
                if array.path in quantized:
                    wide = 1
                yield self.transfer("all-gather", ("fsdp",), own * wide * times)
                if trained:
                    yield self.transfer(self._sum(array), ("fsdp",), summed)
            elif split > 1 and trained:  # ZeRO-1
                yield self.transfer(self._sum(array), ("fsdp",), summed)
                yield self.transfer("all-gather", ("fsdp",), own * array.itemsize)
            if split > 1:
                left /= split
            # Gradients that are replicated on several devices are summed over all of them.
            axes = ("data", "fsdp", "expert", "context", *(() if matrix else ("tensor",)))
            own_axes = mesh_axes(array)
            others = tuple(a for a in axes if self.setting.along(a) > 1 and a not in own_axes)
            if others and trained:
                yield self.transfer("all-reduce", others, left)
        for rows in by_columns.values():
            yield from rows
        if self.splits_vocabulary:
            yield from self._by_vocabulary()

    def _looped(self, array: Array, stack: Stack) -> Iterator[Transfer]:
        """The weights of a loop over time: all-gathered before it; their gradient is summed after
        it, in float32.
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

    def _quantized(self) -> set[str]:
        """Kernels that are gathered in 8 bits: those of the layers, without routers and experts."""
        if self.facts.map_dtype not in EIGHT_BITS.values():
            return set()
        maps = (m for _, m in self._maps() if m.share == 1 and m.makes != "router")
        return {m.array.path for m in maps}

    def _rows(self, stack: Stack) -> Iterator[Transfer]:
        """Rows that are looked up by columns and sent to their tokens' devices, their gradients
        back, if the engine does so (`jaxlm.mesh.columns_of`).
        """
        size, tokens = self.setting.along("fsdp"), self.setting.stack_tokens(stack)
        (table,) = (a for a in self.facts.params if a.path == stack.table)
        rows = table.shape[0] / self.setting.along("tensor")
        lengths = ("context",) if stack.splits_length else ()  # else they are counted already
        together = tokens / self.setting.rounds * self.setting.along("data", *lengths)
        if size > 1 and self.setting.along("expert") == 1 and together <= rows:
            looked_up = tokens * table.shape[1] * self.wide
            for _ in range(self._moves_columns + (stack.table not in self.facts.frozen)):
                yield self.transfer("all-to-all", ("fsdp",), looked_up)
            yield self.transfer("all-gather", ("fsdp",), tokens * size * 4)  # their numbers

    @property
    def _moves_columns(self) -> bool:
        """Whether rows that are looked up go by columns, and not their gradients alone."""
        if self.setting.along("tensor", "stage") > 1:
            return False
        return not self.facts.tied or self.splits_vocabulary

    def _by_vocabulary(self) -> Iterator[Transfer]:
        """The head's loss, where devices along fsdp have the columns of its kernel: the kernel and
        its gradient by rows and columns, and the tokens, whose gradients are summed.
        """
        size, rounds = self.setting.along("fsdp"), self.setting.rounds
        kernel = self.facts.hidden * self.facts.vocab / self.setting.along("tensor") / size
        yield self.transfer("all-to-all", ("fsdp",), kernel * self.wide)  # once a step
        if self.facts.trains_head:
            yield self.transfer("all-to-all", ("fsdp",), kernel * self.wide * rounds)
        tokens = self.head_tokens * size
        numbers = 2 * 4 * tokens  # targets and weights
        hidden = tokens * self.facts.hidden
        yield self.transfer("all-gather", ("fsdp",), hidden * self.wide + numbers)
        if self._takes_all_reduce and not self.least:  # and casts before
            yield self.transfer("all-reduce", ("fsdp",), hidden * self.wide)
        else:
            yield self.transfer("reduce-scatter", ("fsdp",), hidden * 4)
        axes = tuple(a for a in ("fsdp", "tensor") if self.setting.along(a) > 1)
        yield self.transfer("all-reduce", axes, 16 * tokens)  # as in `transfers`, along tensor

    def _sum(self, array: Array) -> str:
        """The collective that sums a gradient that fsdp splits.

        Over all chips of a slice libtpu uses an all-reduce, which has every link of the torus but
        sends twice the minimum; each device keeps its part. In a single small slice it sums in a
        ring that overlaps with the matmuls.
        """
        size = self.setting.along("fsdp")
        in_turns = array.layered and size <= WINDOWED
        in_turns &= self.topology.slices == 1
        whole = self._takes_all_reduce and not in_turns and not self.least
        return "all-reduce" if whole else "reduce-scatter"

    @property
    def _takes_all_reduce(self) -> bool:
        """Whether fsdp takes all chips of a slice."""
        size = self.setting.along("fsdp")
        return self.topology.chip.is_tpu and size == self.topology.devices_per_slice

    def _gradient_bytes(self, array: Array) -> int:
        """Bytes of an element as it is summed: the head's are float32, a tied head's two bytes."""
        if array.path == "embed/table":
            return self.wide + 4 * self.facts.tied
        in_float32 = any(word in array.path for word in ("unembed", "norm", "router"))
        return 4 if in_float32 else self.wide

    def _ways_but(self, array: Array, axis: str) -> int:
        return math.prod(ways(a, self.mesh, (axis,)) for a in array.axes)
