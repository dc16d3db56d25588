"""A step's work in closed form, from the config alone: nothing is compiled.

    work = analyse(facts, Setting(mesh={"fsdp": 16}, batch_size=256, remat="full"), topology)
    work.load, work.memory, work.device_flops

With t tokens on a device, a linear map of w weights there (split by tensor and expert), and r = 1
if it is recomputed: FLOPs t w (6 + 2 r); HBM bytes of the operands and results of its 3 + r
products; for tokens on their way to experts, the bytes of each copy. Attention is counted by its
kernel (`scores`), the head's loss forward and backward together, the update of the parameters by
the bytes of the state. Communication is in `transfers`, memory in `activations`.

The figures that a compiled step has too are tested to agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from jaxlm.kernels.head_loss import CHUNK
from jaxlm.nn.moe import MoEConfig
from jaxlm.plan import devices as factors
from jaxlm.plan.closed_form.activations import activation_parts, kept_per_token
from jaxlm.plan.closed_form.facts import Facts
from jaxlm.plan.closed_form.scores import KERNELS, Scores, scores_of
from jaxlm.plan.closed_form.sender import Sender
from jaxlm.plan.closed_form.setting import Setting
from jaxlm.plan.closed_form.stacks import Array, Layers, LinearMap, Look, Stack, token_part, ways
from jaxlm.plan.closed_form.transfers import transfers
from jaxlm.plan.devices import Topology
from jaxlm.plan.memory import MemoryPlan, MemoryUse
from jaxlm.plan.roofline import Load, Piece

PART_PASSES = 7  # passes over the stream by norms and sums around attention or ffn
ON_CHIP_SHARE = 0.5  # share of the on-chip memory that the weights of a loop over time may fill
UPDATE_PASSES = 2  # read and write of each array of the optimizer's state and of the parameters


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work and the memory of one device in one step."""

    load: Load
    memory: MemoryPlan
    device_flops: float
    tokens_per_step: float  # tokens of the data
    by_module: dict[str, float] = field(default_factory=dict)  # FLOPs


def analyse(facts: Facts, setting: Setting, topology: Topology) -> Work:
    """The work of one step on a topology."""
    return _Analysis(facts, setting, topology).work()


class _Analysis:
    def __init__(self, facts: Facts, setting: Setting, topology: Topology) -> None:
        self.facts, self.setting, self.topology = facts, setting, topology
        self.mesh = setting.mesh
        self.wide = facts.itemsize
        self.tokens = setting.tokens(facts.seq_len)
        self.modules: dict[str, float] = {}
        platform = setting.platform_on(topology)
        self.scores = {
            stack.path: [scores_of(look, stack, setting, platform) for look in stack.looks]
            for stack in facts.stacks
        }

    def work(self) -> Work:
        pieces = list(self._pieces())
        sent = list(transfers(self.facts, self.setting, self.topology))
        load = Load(pieces=pieces, transfers=sent, host_bytes=self._host_bytes())
        return Work(
            load=load,
            memory=self._memory(),
            device_flops=load.flops,
            tokens_per_step=float(self.setting.batch_size * self.facts.data_len),
            by_module=self.modules,
        )

    # ------------------------------------------------------------------------------------- the core

    def _pieces(self) -> Iterator[Piece]:
        for stack in self.facts.stacks:
            for layers in stack.layers:
                for m in layers.maps:
                    yield self._product(m, layers, stack)
                if layers.experts is not None:
                    yield self._routing(layers, layers.experts, stack)
            for look, scores in zip(stack.looks, self.scores[stack.path], strict=True):
                yield self._attention(look, scores, stack)
            stream = self._tokens(stack) * self.setting.stream_part(stack) * self.wide
            yield Piece(hbm_bytes=PART_PASSES * stack.parts * stack.count * stream)
        yield self._head()
        yield self._update()

    def _tokens(self, stack: Stack, length: int | None = None) -> float:
        """The tokens that a device processes in the layers of a stack, including idle turns."""
        return self.setting.stack_tokens(stack, length) * self.setting.layer_share

    def _product(self, m: LinearMap, layers: Layers, stack: Stack) -> Piece:
        """All the products with the weights of one linear map, over the layers."""
        kept = self.setting.kept(stack)
        again = kept.recomputes(m.makes) or (m.share != 1 and kept.policy != "none")
        count = 3 + again - (m.array.path in self.facts.frozen)  # without its own gradient
        local = m.weights * m.share / (1 if m.steps > 1 else self._split(m.array))
        tokens = self._tokens(stack, m.length)
        # A gathered output has a whole gradient, so its product with the weights is whole too.
        passes = count - 1 + self._split(m.array) if m.gathered else count
        flops = 2.0 * tokens * local * passes * m.layers
        experts = layers.experts
        copies = experts.experts_per_token if experts is not None and m.share != 1 else 1
        ins, outs = token_part(m.inputs, self.mesh), token_part(m.outputs, self.mesh)
        moved = tokens * copies * (ins + outs) * count
        weights = m.weights / self._split(m.array, all_experts=True) * count
        if m.steps > 1:
            weights = m.weights * self._reads(m, count)
        weights *= self.setting.passes / self.setting.along("stage")
        dtype = "f32" if m.makes == "router" else self.facts.map_dtype
        self._count(m.array.group if m.share == 1 else "experts", flops)
        hbm = (moved + weights) * self.wide * m.layers
        width = None
        if experts is not None and m.share != 1:
            width = experts.width(stack.hidden) / self.setting.along("tensor")
        return Piece(flops=flops, hbm_bytes=hbm, dtype=dtype, expert_width=width)

    def _reads(self, m: LinearMap, count: int) -> float:
        """The number of times a loop over time reads its weights in a pass: once a step if they do
        not fit into the on-chip memory, otherwise once."""
        fits = m.weights * self.wide <= ON_CHIP_SHARE * self.topology.chip.on_chip_bytes
        return (count - 1) * (1 if fits else m.steps) + 1

    def _routing(self, layers: Layers, experts: MoEConfig, stack: Stack) -> Piece:
        """Copies of tokens sorted by expert and back again, and the activation between products.

        Each operation reads and writes the rows, as the products are kernels. If experts are on
        other devices, packing, sending and sorting the received rows are added.
        """
        there = 4 if self.setting.along("expert") > 1 else 1
        again = self.setting.kept(stack).policy != "none"
        moved = 2 * (2 * there) * (2 + again) * stack.hidden
        width = experts.width(stack.hidden) / self.setting.along("tensor")
        between = (3 * (1 + again) + 5) * width  # two read, one written; backward three and two
        copies = self._tokens(stack) * experts.experts_per_token
        return Piece(hbm_bytes=copies * (moved + between) * self.wide * layers.count)

    def _split(self, array: Array, *, all_experts: bool = False) -> float:
        """The number of parts that a map's work is split into, apart from tokens."""
        names = [a for a in array.axes if a not in ("layers", "experts" if not all_experts else "")]
        return float(math.prod(ways(a, self.mesh, ("fsdp",)) for a in names))

    def _attention(self, look: Look, scores: Scores, stack: Stack) -> Piece:
        """Scores and weighted sums: forward, recomputed and backward."""
        tokens, heads = self._tokens(stack), self.setting.along("tensor")
        forward = tokens * look.score_flops * scores.keys / heads
        flops = forward * (1 + scores.forward_again + scores.backward)
        self._count("attention", flops)
        moved = sum(token_part(sizes, self.mesh) for sizes in look.tensors.values())
        hbm = tokens * moved * self.wide * (3 + scores.forward_again) * look.layers
        hbm += tokens * scores.hbm_bytes
        kernels = flops if scores.kind in KERNELS else 0.0
        return Piece(
            flops=flops,
            kernel_flops=kernels,
            hbm_bytes=hbm,
            dtype=self.facts.dtype,
            head_size=float(look.head_dims[0]),
        )

    def _head(self) -> Piece:
        """The logits and both gradients in one pass; nothing is saved or recomputed."""
        vocab = self.facts.vocab / self.setting.along("tensor")
        tokens = self.tokens / self.setting.along("stage")  # which share it
        flops = (6.0 if self.facts.trains_head else 4.0) * tokens * self.facts.hidden * vocab
        self._count("head", flops)
        split = self.setting.along("context", "stage")
        chunks = max(1.0, self.facts.seq_len / split / CHUNK) * self.setting.rounds
        logits = tokens * vocab * 4 * 4  # float32: written, read for their sums and gradients
        kernel = self.facts.hidden * vocab * (2 * self.wide + 8) * chunks  # read, and its gradient
        return Piece(flops=flops, hbm_bytes=logits + kernel, dtype=self.facts.dtype)

    def _update(self) -> Piece:
        """Gradients, moments and parameters are read and written once; no matmuls."""
        params = sum(self._update_part(a) * a.itemsize for a in self.facts.trained)
        moments = sum(a.part(self.mesh) * a.itemsize for a in self.facts.moments)
        gradients = sum(self._update_part(a) * 4 for a in self.facts.trained)
        cast = sum(self._update_part(a) * self.wide for a in self.facts.params)
        once = gradients * (1 + self.setting.accumulation)
        return Piece(hbm_bytes=UPDATE_PASSES * (params + moments) + once + params + cast)

    def _update_part(self, array: Array) -> float:
        return array.part(self.mesh)

    def _count(self, module: str, flops: float) -> None:
        self.modules[module] = self.modules.get(module, 0.0) + flops

    # ----------------------------------------------------------------------------------- the memory

    def _host_bytes(self) -> float:
        """Bytes of offloaded arrays that move to the host and back in a step."""
        total = 0.0
        for stack in self.facts.stacks:
            hosted = self.setting.kept(stack).on_host
            for layers in stack.layers:
                each = kept_per_token(hosted, layers, self.mesh, self.wide)
                if self.setting.offload_input:
                    each += self.setting.stream_part(stack)
                total += 2 * each * layers.count * self._tokens(stack)
        moments = sum(a.part(self.mesh) * a.itemsize for a in self.facts.moments if a.on_host)
        return total * self.wide + 2 * moments

    def _memory(self) -> MemoryPlan:
        parts: list[MemoryUse] = []
        whole = ("fsdp",) if self.setting.zero == 1 else ()
        for kind, arrays in (("parameters", self.facts.params), ("optimizer", self.facts.moments)):
            sums: dict[tuple[str, bool], float] = {}
            for a in arrays:
                without = whole if kind == "parameters" else ()
                key = a.group, a.on_host
                sums[key] = sums.get(key, 0.0) + a.part(self.mesh, without=without) * a.itemsize
            parts += [
                MemoryUse(kind=kind, module=module, num_bytes=size, on_host=host)
                for (module, host), size in sums.items()
            ]
        head = Sender(self.facts, self.setting, self.topology).splits_vocabulary
        parts += activation_parts(self.facts, self.setting, self.scores, splits_vocabulary=head)
        return MemoryPlan(
            parts=_joined(parts),
            limit=self.topology.hbm_per_device,
            share=factors.ANALYTIC_SHARE,
            compiled=False,
        )


def _joined(parts: Iterable[MemoryUse]) -> list[MemoryUse]:
    """Parts of one name as one: those of several stacks."""
    found: dict[tuple[str, str, bool], MemoryUse] = {}
    for part in parts:
        key = part.kind, part.module, part.on_host
        before = found[key].num_bytes if key in found else 0.0
        found[key] = replace(part, num_bytes=before + part.num_bytes)
    return list(found.values())
