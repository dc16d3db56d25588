"""A step's work in closed form, from the config alone: nothing is compiled.

    work = analyse(facts, Setting(mesh={"fsdp": 16}, batch_size=256, remat="full"), topology)
    work.load, work.memory, work.device_flops

With t tokens on a device, a linear map of w weights there (split by tensor and expert), and r = 1
where it is computed again: FLOPs t w (6 + 2 r); HBM bytes of what it reads and writes in each of
its 3 + r products; copies of tokens on their way to experts by the moves they make. Attention by
its kernel (`scores`), the head's loss at once forward and backward, the update of the parameters by
the bytes of the state; what is sent is in `transfers`, what is held in `activations`.

The figures that a compiled step has too are tested to agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jaxlm.nn.moe import MoEConfig
from jaxlm.plan import devices as factors
from jaxlm.plan.activations import activation_parts, kept_per_token
from jaxlm.plan.devices import Topology
from jaxlm.plan.facts import Array, Facts, Layers, LinearMap, token_part, ways
from jaxlm.plan.memory import MemoryPlan, Part
from jaxlm.plan.remat import Kept, keeping
from jaxlm.plan.roofline import Load, Piece
from jaxlm.plan.scores import KERNELS, scores_of
from jaxlm.plan.setting import Setting
from jaxlm.plan.transfers import transfers

HEAD_CHUNK = 512  # tokens of a row that the head's loss takes at a time (kernels.head_loss.CHUNK)
STREAM_PASSES = 14  # times that a layer's elementwise work moves the residual stream: norms, sums
UPDATE_PASSES = 2  # read and write of each array of the optimizer's state and of the parameters


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one device does and holds in one step."""

    load: Load
    memory: MemoryPlan
    device_flops: float
    tokens_per_step: float  # of the data
    by_module: dict[str, float] = field(default_factory=dict)  # FLOPs


def analyse(facts: Facts, setting: Setting, topology: Topology) -> Work:
    """The work of one step on a topology."""
    return _Analysis(facts, setting, topology).work()


class _Analysis:
    def __init__(self, facts: Facts, setting: Setting, topology: Topology) -> None:
        self.facts, self.setting, self.topology = facts, setting, topology
        model: Any = facts.config.model
        self.kept: Kept = keeping(
            setting.remat,
            setting.saved,
            setting.offloaded,
            norm_follows=model.norm_placement != "pre",
        )
        self.mesh = setting.mesh
        self.wide = facts.itemsize
        self.tokens = setting.tokens(facts.seq_len)
        self.modules: dict[str, float] = {}
        platform = setting.platform or ("tpu" if topology.chip.is_tpu else "gpu")
        self.scores = scores_of(facts, setting, self.kept, platform)

    def work(self) -> Work:
        pieces = list(self._pieces())
        sent = list(transfers(self.facts, self.setting, self.topology, self.kept))
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
        for layers in self.facts.layers:
            for m in layers.maps:
                yield self._product(m, layers)
            if layers.experts is not None:
                yield self._routing(layers, layers.experts)
        yield self._attention()
        yield self._head()
        layers_count = sum(layers.count for layers in self.facts.layers)
        stream = self.tokens * self.facts.hidden * self.wide * self.setting.layer_share
        yield Piece(hbm_bytes=STREAM_PASSES * layers_count * stream / self.setting.along("tensor"))
        yield self._update()

    def _product(self, m: LinearMap, layers: Layers) -> Piece:
        """All the products with the weights of one linear map, over the layers."""
        again = self.kept.recomputes(m.makes) or (m.share != 1 and self.kept.policy != "none")
        local = m.weights * m.share / self._split(m.array)
        count = 3 + again
        tokens = self.tokens * self.setting.layer_share
        flops = 2.0 * tokens * local * count * m.layers
        experts = layers.experts
        copies = experts.experts_per_token if experts is not None and m.share != 1 else 1
        ins, outs = token_part(m.inputs, self.mesh), token_part(m.outputs, self.mesh)
        moved = tokens * copies * (ins + outs) * count
        weights = m.weights / self._split(m.array, all_experts=True) * count
        weights *= self.setting.passes / self.setting.along("stage")
        dtype = "f32" if m.makes == "router" else self.facts.dtype
        self._count(m.array.group if m.share == 1 else "experts", flops)
        hbm = (moved + weights) * self.wide * m.layers
        return Piece(flops=flops, hbm_bytes=hbm, dtype=dtype, grouped=m.share != 1)

    def _routing(self, layers: Layers, experts: MoEConfig) -> Piece:
        """Copies of tokens sorted by expert and back again, and the activation between products.

        Rows are read and written by each of these by itself, as the products are kernels; where
        experts are elsewhere, also as they are made ready, are sent and are sorted where they come.
        """
        there = 4 if self.setting.along("expert") > 1 else 1
        again = self.kept.policy != "none"
        moved = 2 * (2 * there) * (2 + again) * self.facts.hidden
        width = experts.width(self.facts.hidden) / self.setting.along("tensor")
        between = (3 * (1 + again) + 5) * width  # two read, one written; backward three and two
        copies = self.tokens * self.setting.layer_share * experts.experts_per_token
        return Piece(hbm_bytes=copies * (moved + between) * self.wide * layers.count)

    def _split(self, array: Array, *, all_experts: bool = False) -> float:
        """Into how many parts a device's own share of a map's work is cut, tokens aside."""
        names = [a for a in array.axes if a not in ("layers", "experts" if not all_experts else "")]
        return float(math.prod(ways(a, self.mesh, ("fsdp",)) for a in names))

    def _attention(self) -> Piece:
        """Scores and weighted sums: forward, what is repeated of it, and backward."""
        scores, heads = self.scores, self.setting.along("tensor")
        tokens = self.tokens * self.setting.layer_share
        forward = tokens * self.facts.score_flops * scores.keys / heads
        flops = forward * (1 + scores.forward_again + scores.backward)
        self._count("attention", flops)
        one = self.facts.layers[0].tensors
        names = ("query", "key", "value", "attention")
        moved = sum(token_part(one[name], self.mesh) for name in names if name in one)
        count = sum(layers.count for layers in self.facts.layers)
        hbm = tokens * moved * self.wide * (3 + scores.forward_again) * count
        hbm += tokens * scores.hbm_bytes
        kernels = flops if scores.kind in KERNELS else 0.0
        return Piece(flops=flops, kernel_flops=kernels, hbm_bytes=hbm, dtype=self.facts.dtype)

    def _head(self) -> Piece:
        """The logits and both gradients, at once; nothing is kept, so nothing is computed again."""
        vocab = self.facts.vocab / self.setting.along("tensor")
        tokens = self.tokens / self.setting.along("stage")  # which share it
        flops = 6.0 * tokens * self.facts.hidden * vocab
        self._count("head", flops)
        split = self.setting.along("context", "stage")
        chunks = max(1.0, self.facts.seq_len / split / HEAD_CHUNK) * self.setting.rounds
        logits = tokens * vocab * 4 * 4  # float32: written, read for their sums and gradients
        kernel = self.facts.hidden * vocab * (2 * self.wide + 8) * chunks  # read, and its gradient
        return Piece(flops=flops, hbm_bytes=logits + kernel, dtype=self.facts.dtype)

    def _update(self) -> Piece:
        """Gradients, moments and parameters pass through once; no products."""
        params = sum(self._update_part(a) * a.itemsize for a in self.facts.params)
        moments = sum(a.part(self.mesh) * a.itemsize for a in self.facts.moments)
        gradients = sum(self._update_part(a) * 4 for a in self.facts.params)
        cast = sum(self._update_part(a) * self.wide for a in self.facts.params)
        once = gradients * (1 + self.setting.accumulation)
        return Piece(hbm_bytes=UPDATE_PASSES * (params + moments) + once + params + cast)

    def _update_part(self, array: Array) -> float:
        return array.part(self.mesh)

    def _count(self, module: str, flops: float) -> None:
        self.modules[module] = self.modules.get(module, 0.0) + flops

    # ----------------------------------------------------------------------------------- the memory

    def _host_bytes(self) -> float:
        """Of what waits in the host's memory: out and in again, each once a step."""
        total = 0.0
        for layers in self.facts.layers:
            each = kept_per_token(self.kept.on_host, layers, self.mesh, self.wide)
            if self.setting.offload_input:
                each += self.facts.hidden / self.setting.along("tensor")
            total += 2 * each * layers.count * self.setting.layer_share
        moments = sum(a.part(self.mesh) * a.itemsize for a in self.facts.moments if a.on_host)
        return total * self.tokens * self.wide + 2 * moments

    def _memory(self) -> MemoryPlan:
        parts: list[Part] = []
        whole = ("fsdp",) if self.setting.zero == 1 else ()
        for kind, arrays in (("parameters", self.facts.params), ("optimizer", self.facts.moments)):
            sums: dict[tuple[str, bool], float] = {}
            for a in arrays:
                without = whole if kind == "parameters" else ()
                key = a.group, a.on_host
                sums[key] = sums.get(key, 0.0) + a.part(self.mesh, without=without) * a.itemsize
            parts += [
                Part(kind=kind, module=module, num_bytes=size, on_host=host)
                for (module, host), size in sums.items()
            ]
        parts += activation_parts(self.facts, self.setting, self.kept, self.scores, self.tokens)
        return MemoryPlan(
            parts=parts,
            limit=self.topology.hbm_per_device,
            share=factors.ANALYTIC_SHARE,
            compiled=False,
        )
