"""What a device sends over the networks in a step, in closed form: the collectives of every axis.

    for transfer in transfers(facts, setting, topology): ...

What of the weights is sent is in `jaxlm.plan.closed_form.weights`. Of activations tensor gathers
what enters attention and ffn along its length and reduce-scatters what leaves them, and of
recurrent layers gathers what they make; context gathers keys and values, or sends them round;
expert sends each token's k copies there and back; stage sends a micro-batch on at every turn. The
gradient of a source that several parts of the devices look at is summed over them.

What is told is what TPUs' compiler sends; with `least`, what of the engine's step no compiler could
do without: sums by reduce-scatter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from jaxlm.plan.closed_form.facts import Facts
from jaxlm.plan.closed_form.scores import kind_of
from jaxlm.plan.closed_form.sender import Sender
from jaxlm.plan.closed_form.setting import Setting
from jaxlm.plan.closed_form.stacks import Look, Stack, token_part
from jaxlm.plan.closed_form.weights import Weights
from jaxlm.plan.devices import Topology
from jaxlm.plan.roofline import Transfer


def transfers(
    facts: Facts, setting: Setting, topology: Topology, *, least: bool = False
) -> Iterator[Transfer]:
    """All that one device sends in one step."""
    yield from Weights(facts, setting, topology, least=least).sent()
    yield from _Activations(facts, setting, topology, least=least).all()


class _Activations(Sender):
    def all(self) -> Iterator[Transfer]:
        if self.setting.along("tensor") > 1:
            yield from self._tensor()
        if self.setting.along("context") > 1:
            yield from self._context()
        if self.setting.along("expert") > 1:
            yield from self._experts()
        if self.setting.along("stage") > 1:
            yield from self._stages()

    def _tensor(self) -> Iterator[Transfer]:
        """What enters attention and ffn is gathered along its length, what leaves them is summed
        and split; beside the layers the embedding's sum, and what the head is given.
        """
        stream, gathered, summed = self.stream(), 0.0, 0.0
        sums = 16 * self.tokens  # of a split vocabulary: largest, sum, target's, rank
        for stack in self.facts.stacks:
            if not stack.splits_stream:
                gathered += self._gathered(stack)
                sums += self.stream(stack) + self._partial(stack)  # and of what was looked up
                continue
            kept, own = self.setting.kept(stack), self.stream(stack)
            layers = stack.count * self.setting.layer_share
            made = ("attention_out", "ffn_out", "cross_out")[: stack.parts]
            again = sum(kept.recomputes(name) for name in made)
            inputs = 2 + (kept.policy != "none")
            gathered += own * (layers * stack.parts * inputs + 2)
            summed += own * (layers * (2 * stack.parts + again) + 1)
        yield self.transfer("all-gather", ("tensor",), gathered)
        if summed:
            yield self.transfer("reduce-scatter", ("tensor",), summed)
        sums += sum(self._sources(layers=True))
        yield self.transfer("all-reduce", ("tensor",), stream + sums)  # and its input's gradient

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
                yield self.transfer("all-gather", ("context",), whole * again)
                yield self.transfer("reduce-scatter", ("context",), whole)
                # the fused kernel gives each device as many pairs; a window gives them by itself
                platform = self.setting.platform_on(self.topology)
                kind = kind_of(look, stack, self.setting, platform)
                if kind == "splash" and look.asked["causal"] and not look.asked["window"]:
                    moved = self._swapped(look, tokens, again + 1, "query", "attention")
                    yield self.transfer("collective-permute", ("context",), moved)

    def _ring(self, look: Look, tokens: float, forward: int) -> Iterator[Transfer]:
        """Keys and values go round in each pass, their float32 gradients in the last, and home.

        Where the text is causal, all that attention reads and writes changes places before and
        after. Of two devices the one turn, computed again, is the backward's.
        Beside tensor libtpu gathers one gradient of a layer in two layouts, which is not counted.
        """
        parts = self.setting.along("context")
        keys = tokens * self._part(look, "key", "value")
        passes = 2 if parts == 2 else forward + 1
        sent = keys * self.wide * (parts - 1) * passes + keys * 4 * parts
        if look.asked["causal"]:
            sent += self._swapped(look, tokens, forward + 1, *look.tensors)
        yield self.transfer("collective-permute", ("context",), sent)

    def _swapped(self, look: Look, tokens: float, passes: int, *names: str) -> float:
        """What changes places, so that all devices have pairs alike; of two each keeps half."""
        moved = tokens * self._part(look, *names) * self.wide * passes
        return moved * (0.5 if self.setting.along("context") == 2 else 1)

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
                    rows = self.stream(stack) * layers.experts.experts_per_token
                    whole = rows * times * layers.count * self.setting.layer_share
                    yield self.transfer("all-to-all", ("expert",), whole)

    def _stages(self) -> Iterator[Transfer]:
        """A micro-batch to the next stage at each turn and back; in the end the last one to all."""
        streams = sum(self.stream(stack) for stack in self.facts.stacks)
        stream = streams / self.setting.along("tensor")
        one = stream / self.setting.accumulation * self.setting.turns
        yield self.transfer("collective-permute", ("stage",), 2 * one)
        yield self.transfer("reduce-scatter", ("stage",), stream)
        yield self.transfer("all-gather", ("stage",), stream)
        if self.setting.stage_repeats > 1:  # pieces of the layers are dealt out, and come back
            pieces = sum(
                a.part(self.mesh) * a.itemsize for a in self.facts.params if "layers" in a.path
            )
            yield self.transfer("collective-permute", ("stage",), 2 * pieces)
        # The stages share the head, so its gradient is theirs together, each device's part of it
        # once fsdp has summed it; the embedding's each forms by itself, once all have what stage 0
        # was given.
        head = "embed/table" if self.facts.tied else "unembed/kernel"
        table = next(a for a in self.facts.params if a.path == head)
        whole = stream + 4 * table.part(self.mesh) + sum(self._sources())
        yield self.transfer("all-reduce", ("stage",), whole)

    def _sources(self, *, layers: bool = False) -> Iterator[float]:
        """Bytes of a source's hidden states, whole along tensor, whose gradient is a sum over those
        that look at it; `layers`: as often as there are such layers.
        """
        for stack in self.facts.stacks:
            for look in stack.looks:
                if not look.same_rows:
                    own = self.setting.tokens(look.keys_length) * stack.hidden * self.wide
                    yield own * (look.layers * self.setting.layer_share if layers else 1)
