"""What a device sends over the networks in a step, in closed form: the collectives of every axis.

    for transfer in transfers(facts, setting, topology): ...

fsdp gathers the weights of a layer's maps twice in the compute dtype and reduce-scatters their
gradients, in every pass through the layers; the embedding and the head are gathered once a step.
Where the rows that were looked up are fewer than the embedding's, their gradients go to the devices
that have its columns instead of the table's. Over other axes of the batch, what is left of
gradients is all-reduced. tensor gathers what enters attention and ffn along its length and
reduce-scatters what leaves them; context gathers keys and values, or sends them round; expert sends
each token's k copies there and back; stage sends a micro-batch on at every turn.

What is told is what TPUs' compiler sends; with `least`, what no compiler could do without: sums by
reduce-scatter, and a ring that ends when all have met.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from jaxlm.mesh import RULES
from jaxlm.plan.collectives import wire_bytes
from jaxlm.plan.devices import Topology
from jaxlm.plan.facts import Facts
from jaxlm.plan.roofline import Transfer
from jaxlm.plan.setting import Setting
from jaxlm.plan.stacks import Array, LinearMap, Look, Stack, token_part, ways

WINDOWED = 32  # devices up to which the compiler sums in turns beside the product (libtpu 0.0.42)


def transfers(
    facts: Facts, setting: Setting, topology: Topology, *, least: bool = False
) -> Iterator[Transfer]:
    """All that one device sends in one step."""
    return _Network(facts, setting, topology, least).all()


class _Network:
    def __init__(self, facts: Facts, setting: Setting, topology: Topology, least: bool) -> None:
        self.facts, self.setting, self.topology, self.least = facts, setting, topology, least
        self.mesh, self.wide = setting.mesh, facts.itemsize
        self.tokens = setting.tokens(facts.seq_len)

    def all(self) -> Iterator[Transfer]:
        yield from self._weights()
        if self.setting.along("tensor") > 1:
            yield from self._tensor()
        if self.setting.along("context") > 1:
            yield from self._context()
        if self.setting.along("expert") > 1:
            yield from self._experts()
        if self.setting.along("stage") > 1:
            yield from self._stages()

    def _weights(self) -> Iterator[Transfer]:
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
                yield self._transfer("all-gather", ("fsdp",), own * wide * times)
                yield self._transfer(self._sum(array), ("fsdp",), summed)
            elif self.setting.along("fsdp") > 1:
                kind = self._sum(array) if split > 1 else "all-reduce"
                yield self._transfer(kind, ("fsdp",), summed)
                if split > 1:
                    yield self._transfer("all-gather", ("fsdp",), own * array.itemsize)
            # what no axis of the batch splits is summed over all of them
            left /= split if self.setting.along("fsdp") > 1 else 1
            others = ("data", "expert", "context", *(() if matrix else ("tensor",)))
            for axis in others:
                if self.setting.along(axis) > 1 and axis not in mesh_axes(array):
                    yield self._transfer("all-reduce", (axis,), left)
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
            yield self._transfer("all-gather", split, array.size * self.wide * times)
        fsdp = self.setting.along("fsdp")
        if fsdp > 1:
            yield self._transfer("reduce-scatter", ("fsdp",), 4 * array.size * micro)
            if zero:
                whole = array.size / self.setting.along("tensor") * array.itemsize
                yield self._transfer("all-gather", ("fsdp",), whole)
        for axis in ("data", "expert"):
            if self.setting.along(axis) > 1:
                yield self._transfer("all-reduce", (axis,), 4 * array.size * micro / fsdp)

    def _maps(self) -> Iterator[tuple[Stack, LinearMap]]:
        for stack in self.facts.stacks:
            for layers in stack.layers:
                yield from ((stack, m) for m in layers.maps)

    def _rows(self, stack: Stack) -> Iterator[Transfer]:
        """Gradients of the rows that were looked up, to the devices that have their columns.

        In place of the table's, where they are fewer (`jaxlm.mesh.gradient_by_columns`).
        """
        size, tokens = self.setting.along("fsdp"), self.setting.stack_tokens(stack)
        (table,) = (a for a in self.facts.params if a.path == stack.table)
        rows = table.shape[0] / self.setting.along("tensor")
        if size > 1 and self.setting.along("expert") == 1 and tokens / self.setting.rounds < rows:
            looked_up = tokens * table.shape[1] * self.wide
            yield self._transfer("all-to-all", ("fsdp",), looked_up)
            yield self._transfer("all-gather", ("fsdp",), tokens * size * 4)  # their numbers

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

    def _tensor(self) -> Iterator[Transfer]:
        """What enters attention and ffn is gathered along its length, what leaves them is summed
        and split; beside the layers the embedding's sum, and what the head is given.
        """
        stream, gathered, summed = self._stream(), 0.0, 0.0
        sums = 16 * self.tokens  # of a split vocabulary: largest, sum, target's, rank
        for stack in self.facts.stacks:
            if not stack.splits_stream:
                gathered += self._gathered(stack)
                sums += self._stream(stack) + self._partial(stack)  # and of what was looked up
                continue
            kept, own = self.setting.kept(stack), self._stream(stack)
            layers = stack.count * self.setting.layer_share
            made = ("attention_out", "ffn_out", "cross_out")[: stack.parts]
            again = sum(kept.recomputes(name) for name in made)
            inputs = 2 + (kept.policy != "none")
            gathered += own * (layers * stack.parts * inputs + 2)
            summed += own * (layers * (2 * stack.parts + again) + 1)
        yield self._transfer("all-gather", ("tensor",), gathered)
        yield self._transfer("reduce-scatter", ("tensor",), summed)
        sums += sum(self._sources(layers=True))
        yield self._transfer("all-reduce", ("tensor",), stream + sums)  # and its input's gradient

    def _gathered(self, stack: Stack) -> float:
        """Bytes of what is gathered along tensor as it is made, and for its gradient of the weights
        that made it.
        """
        total, tokens = 0.0, self.setting.stack_tokens(stack)
        for m in (m for layers in stack.layers for m in layers.maps if m.gathered):
            made = math.prod(size for _, size in m.outputs) * tokens
            times = 1 + self.setting.kept(stack).recomputes(m.makes)
            total += (made * times + m.weights * self.setting.passes) * m.layers * self.wide
        for layers in stack.layers:
            total += layers.gathered * tokens * layers.count * self.wide
        return total

    def _partial(self, stack: Stack) -> float:
        """Bytes of the gradients of what maps are given, of which each device has a part: where
        what they make stays split.
        """
        maps = (m for layers in stack.layers for m in layers.maps)
        sizes = (
            math.prod(size for _, size in m.inputs) * m.layers
            for m in maps
            if not m.gathered and m.steps == 1
        )
        return sum(sizes) * self.setting.stack_tokens(stack) * self.wide

    def _context(self) -> Iterator[Transfer]:
        """Keys and values of the whole length for each device's queries."""
        parts = self.setting.along("context")
        for stack in self.facts.stacks:
            again = 1 + self.setting.kept(stack).recomputes_attention
            own = self.setting.tokens(stack.length)
            for look in stack.looks:
                tokens = look.layers * self.setting.layer_share * own
                if look.same_rows and self.setting.context == "ring":
                    yield from self._ring(look, tokens, again)
                    continue
                whole = tokens * parts * self._part(look, "key", "value") * self.wide
                yield self._transfer("all-gather", ("context",), whole * again)
                yield self._transfer("reduce-scatter", ("context",), whole)

    def _ring(self, look: Look, tokens: float, forward: int) -> Iterator[Transfer]:
        """Keys and values go round in each pass, their float32 gradients in the last, to the end.

        Where the text is causal, all that attention reads and writes changes places before and
        after; of two devices each keeps half.
        """
        parts = self.setting.along("context")
        keys = tokens * self._part(look, "key", "value")
        turns = parts - 1 if self.least else parts
        sent = keys * self.wide * turns * (forward + 1) + keys * 4 * parts
        if look.asked["causal"]:
            moved = tokens * self._part(look, *look.tensors) * self.wide
            sent += moved * (forward + 1) * (0.5 if parts == 2 else 1)
        yield self._transfer("collective-permute", ("context",), sent)

    def _part(self, look: Look, *names: str) -> float:
        """Of a token's tensors what one device holds."""
        found = (look.tensors[name] for name in names if name in look.tensors)
        return sum(token_part(sizes, self.mesh) for sizes in found)

    def _experts(self) -> Iterator[Transfer]:
        """A token's copies, to its experts and back."""
        for stack in self.facts.stacks:
            times = 2 * (2 + (self.setting.kept(stack).policy != "none"))
            for layers in stack.layers:
                if layers.experts is not None:
                    rows = self._stream(stack) * layers.experts.experts_per_token
                    whole = rows * times * layers.count * self.setting.layer_share
                    yield self._transfer("all-to-all", ("expert",), whole)

    def _stages(self) -> Iterator[Transfer]:
        """A micro-batch to the next stage at each turn and back; in the end the last one to all."""
        streams = sum(self._stream(stack) for stack in self.facts.stacks)
        stream = streams / self.setting.along("tensor")
        one = stream / self.setting.accumulation * self.setting.turns
        yield self._transfer("collective-permute", ("stage",), 2 * one)
        yield self._transfer("reduce-scatter", ("stage",), stream)
        yield self._transfer("all-gather", ("stage",), stream)
        if self.setting.stage_repeats > 1:  # pieces of the layers are dealt out, and come back
            pieces = sum(
                a.part(self.mesh) * a.itemsize for a in self.facts.params if "layers" in a.path
            )
            yield self._transfer("collective-permute", ("stage",), 2 * pieces)
        # The stages share the head, so its gradient is theirs together, each device's part of it
        # once fsdp has summed it; the embedding's each forms by itself, once all have what stage 0
        # was given.
        head = "embed/table" if self.facts.tied else "unembed/kernel"
        table = next(a for a in self.facts.params if a.path == head)
        whole = stream + 4 * table.part(self.mesh) + sum(self._sources())
        yield self._transfer("all-reduce", ("stage",), whole)

    def _sources(self, *, layers: bool = False) -> Iterator[float]:
        """Bytes of a source's hidden states, whole along tensor, whose gradient is a sum over those
        that look at it; `layers`: as often as there are such layers.
        """
        for stack in self.facts.stacks:
            for look in stack.looks:
                if not look.same_rows:
                    own = self.setting.tokens(look.keys_length) * stack.hidden * self.wide
                    yield own * (look.layers * self.setting.layer_share if layers else 1)

    def _stream(self, stack: Stack | None = None) -> float:
        """Bytes of the hidden states of a device's tokens, whole along tensor: of those that the
        head is given, or of a stack's.
        """
        if stack is None:
            return self.tokens * self.facts.hidden * self.wide
        return self.setting.stack_tokens(stack) * stack.hidden * self.wide

    def _transfer(self, kind: str, axes: tuple[str, ...], whole: float) -> Transfer:
        size = self.setting.along(*axes)
        spread = self._spread(axes[0])
        return Transfer(
            kind=kind, axes=axes, size=size, slices=spread, wire_bytes=wire_bytes(kind, whole, size)
        )

    def _spread(self, axis: str) -> int:
        """Over how many slices or nodes the devices of one axis' groups stand."""
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
    """Into how many parts one axis of the mesh splits an array."""
    return mesh.get(axis, 1) if axis in mesh_axes(array) else 1


def mesh_axes(array: Array) -> set[str]:
    """The mesh axes that an array's own axes are split over."""
    found: set[str] = set()
    for name in array.axes:
        rule = RULES[name] if name is not None else None
        found |= {rule} if isinstance(rule, str) else set(rule or ())
    return found
