"""A device's transfers over the networks in a step, in closed form: the collectives of every axis.

    for transfer in transfers(facts, setting, topology): ...

Communication of weights is in `jaxlm.plan.closed_form.weights`. For activations, `tensor`
all-gathers the inputs of attention and ffn along the length and reduce-scatters their outputs, and
all-gathers the outputs of recurrent layers; `context` all-gathers or rotates keys and values;
`expert` sends the k copies of each token there and back; `stage` sends a micro-batch to the next
stage at every turn. The gradient of a source is summed over the devices that attend to it.

The counts are those of the TPU compiler; with `least` they are a lower bound for any compiler, with
sums by reduce-scatter.
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
    """Everything that one device sends in one step."""
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
        """Inputs of attention and ffn are all-gathered along the length, outputs are
        reduce-scattered; outside of the layers, the sum of the embedding and the head's input.
        """
        stream, gathered, summed = self.stream(), 0.0, 0.0
        # with a split vocabulary: maximum, sum, target's logit, rank
        sums = 0.0 if self.splits_vocabulary else 16 * self.tokens
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
        """Bytes of outputs that are all-gathered along tensor, forward and for the gradient of the
        weights that made them.
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
        """Bytes of partial gradients of the maps' inputs, which are summed if their outputs stay
        split.
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
                # The kernel balances the pairs over the devices, which a window does by itself.
                platform = self.setting.platform_on(self.topology)
                kind = kind_of(look, stack, self.setting, platform)
                if kind == "splash" and look.asked["is_causal"] and not look.asked["window"]:
                    moved = self._swapped(look, tokens, again + 1, "query", "attention")
                    yield self.transfer("collective-permute", ("context",), moved)

    def _ring(self, look: Look, tokens: float, forward: int) -> Iterator[Transfer]:
        """Keys and values rotate in each pass, their float32 gradients in the last, and then home.

        With a causal mask, all inputs and outputs of attention are permuted before and after. With
        two devices the recomputed single turn is that of the backward pass. With `tensor`, libtpu
        all-gathers one gradient of a layer in two layouts, which is not counted.
        """
        parts = self.setting.along("context")
        keys = tokens * self._part(look, "key", "value")
        passes = 2 if parts == 2 else forward + 1
        sent = keys * self.wide * (parts - 1) * passes + keys * 4 * parts
        if look.asked["is_causal"]:
            sent += self._swapped(look, tokens, forward + 1, *look.tensors)
        yield self.transfer("collective-permute", ("context",), sent)

    def _swapped(self, look: Look, tokens: float, passes: int, *names: str) -> float:
        """Bytes that are permuted to balance the pairs; with two devices each keeps half."""
        moved = tokens * self._part(look, *names) * self.wide * passes
        return moved * (0.5 if self.setting.along("context") == 2 else 1)

    def _part(self, look: Look, *names: str) -> float:
        """Elements of these tensors of a token that one device holds."""
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
        """A micro-batch goes to the next stage at each turn; at the end the last stage's to all."""
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
        # The stages share the head, so its gradient is summed over them, after the sum over fsdp.
        # Each stage computes the embedding's gradient itself, once it has the input of stage 0.
        head = "embed/table" if self.facts.tied else "unembed/kernel"
        table = next(a for a in self.facts.params if a.path == head)
        whole = stream + 4 * table.part(self.mesh) + sum(self._sources())
        yield self.transfer("all-reduce", ("stage",), whole)

    def _sources(self, *, layers: bool = False) -> Iterator[float]:
        """Bytes of a source's hidden states, whole along tensor, whose gradient is summed over the
        layers that attend to it; `layers`: once for each of them.
        """
        for stack in self.facts.stacks:
            for look in stack.looks:
                if not look.same_rows:
                    own = self.setting.tokens(look.keys_length) * stack.hidden * self.wide
                    yield own * (look.layers * self.setting.layer_share if layers else 1)
