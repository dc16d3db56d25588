"""A step's work in closed form, from the config alone: nothing is compiled.

    work = analyse(facts, Setting(mesh={"fsdp": 16}, batch_size=256, remat="full"), topology)
    work.load, work.memory, work.device_flops

With t tokens on a device, a linear map of w weights there (split by tensor and expert), and r = 1
where it is computed again: FLOPs t w (6 + 2 r); HBM bytes of what it reads and writes in each of
its 3 + r products; its weights gathered over fsdp twice in the compute dtype and their gradients
reduce-scattered once (for each micro-batch). Over `data`, what is left of gradients is all-reduced.
`tensor` all-reduces what attention and ffn add, forward, backward, and attention again where it is
computed again. `context` gathers keys and values and scatters their gradients. `expert` sends each
token's k copies there and back, forward, backward and again.

The figures that a compiled step has too are tested to agree with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlm.mesh import RULES
from jaxlm.plan import devices as factors
from jaxlm.plan.activations import activation_parts, kept_per_token
from jaxlm.plan.devices import Topology
from jaxlm.plan.facts import Array, Facts, Layers, LinearMap, token_part, ways
from jaxlm.plan.hlo import wire_bytes
from jaxlm.plan.memory import MemoryPlan, Part
from jaxlm.plan.remat import Kept, keeping
from jaxlm.plan.roofline import Load, Piece, Transfer
from jaxlm.plan.scores import scores_of

HEAD_CHUNK = 512  # tokens of a row that the head's loss takes at a time (kernels.head_loss.CHUNK)
STREAM_PASSES = 14  # times that a layer's elementwise work moves the residual stream: norms, sums
UPDATE_PASSES = 2  # read and write of each array of the optimizer's state and of the parameters


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a search may change of a run."""

    mesh: Mapping[str, int]
    batch_size: int
    accumulation: int = 1
    remat: str = "none"
    saved: tuple[str, ...] = ()
    offloaded: tuple[str, ...] = ()
    zero: int = 3
    dcn: str = "data"
    slices: int = 1  # or nodes of GPUs
    block: int = 512  # rows and columns of a block of scores in the attention kernel
    platform: str | None = None  # whose kernels are meant; None: the topology's
    offload_input: bool = False  # of published runs: the layer's input waits in the host's memory

    def along(self, *axes: str) -> int:
        return math.prod(self.mesh.get(axis, 1) for axis in axes)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one device does and holds in one step."""

    load: Load
    memory: MemoryPlan
    device_flops: float
    tokens_per_step: float
    by_module: dict[str, float] = field(default_factory=dict)  # FLOPs


def setting_of(facts: Facts, mesh: Mapping[str, int], topology: Topology) -> Setting:
    """The setting that a run's config has."""
    config: Any = facts.config
    model = config.model
    return Setting(
        mesh=mesh,
        batch_size=config.train.batch_size,
        accumulation=config.train.accumulation,
        remat=model.remat,
        saved=model.saved,
        offloaded=model.offloaded,
        zero=config.mesh.zero,
        dcn=config.mesh.dcn,
        slices=topology.fast_groups,
    )


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
        rows = setting.along("data", "fsdp", "expert")
        self.tokens = setting.batch_size / rows * facts.seq_len / setting.along("context")
        self.modules: dict[str, float] = {}
        platform = setting.platform or ("tpu" if topology.chip.is_tpu else "gpu")
        self.scores = scores_of(facts, setting, self.kept, platform)

    def work(self) -> Work:
        pieces = list(self._pieces())
        load = Load(pieces=pieces, transfers=list(self._transfers()), host_bytes=self._host_bytes())
        return Work(
            load=load,
            memory=self._memory(),
            device_flops=load.flops,
            tokens_per_step=float(self.setting.batch_size * self.facts.seq_len),
            by_module=self.modules,
        )

    # ------------------------------------------------------------------------------------- the core

    def _pieces(self) -> Iterator[Piece]:
        for layers in self.facts.layers:
            for m in layers.maps:
                yield self._product(m, layers)
        yield self._attention()
        yield self._head()
        layers_count = sum(layers.count for layers in self.facts.layers)
        stream = self.tokens * self.facts.hidden * self.wide
        yield Piece(hbm_bytes=STREAM_PASSES * layers_count * stream)
        yield self._update()

    def _product(self, m: LinearMap, layers: Layers) -> Piece:
        """All the products with the weights of one linear map, over the layers."""
        again = self.kept.recomputes(m.makes) or (m.share != 1 and self.kept.policy != "none")
        local = m.weights * m.share / self._split(m.array)
        count = 3 + again
        flops = 2.0 * self.tokens * local * count * m.layers
        experts = layers.experts
        copies = experts.experts_per_token if experts is not None and m.share != 1 else 1
        ins, outs = token_part(m.inputs, self.mesh), token_part(m.outputs, self.mesh)
        moved = self.tokens * copies * (ins + outs) * count
        weights = m.weights / self._split(m.array, all_experts=True) * count
        dtype = "f32" if m.makes == "router" else self.facts.dtype
        self._count(m.array.group if m.share == 1 else "experts", flops)
        hbm = (moved + weights * self.setting.accumulation) * self.wide * m.layers
        return Piece(flops=flops, hbm_bytes=hbm, dtype=dtype, grouped=m.share != 1)

    def _split(self, array: Array, *, all_experts: bool = False) -> float:
        """Into how many parts a device's own share of a map's work is cut, tokens aside."""
        names = [a for a in array.axes if a not in ("layers", "experts" if not all_experts else "")]
        return float(math.prod(ways(a, self.mesh, ("fsdp",)) for a in names))

    def _attention(self) -> Piece:
        """Scores and weighted sums: forward, what is repeated of it, and backward."""
        scores, heads = self.scores, self.setting.along("tensor")
        forward = self.tokens * self.facts.score_flops * scores.keys / heads
        flops = forward * (1 + scores.forward_again + scores.backward)
        self._count("attention", flops)
        one = self.facts.layers[0].tensors
        names = ("query", "key", "value", "attention")
        moved = sum(token_part(one[name], self.mesh) for name in names if name in one)
        count = sum(layers.count for layers in self.facts.layers)
        hbm = self.tokens * moved * self.wide * (3 + scores.forward_again) * count
        hbm += self.tokens * scores.hbm_bytes
        kernels = flops if scores.kind == "splash" else 0.0
        return Piece(flops=flops, kernel_flops=kernels, hbm_bytes=hbm, dtype=self.facts.dtype)

    def _head(self) -> Piece:
        """The logits and both gradients, at once; nothing is kept, so nothing is computed again."""
        vocab = self.facts.vocab / self.setting.along("tensor")
        flops = 6.0 * self.tokens * self.facts.hidden * vocab
        self._count("head", flops)
        chunks = max(1.0, self.facts.seq_len / self.setting.along("context") / HEAD_CHUNK)
        chunks *= self.setting.accumulation
        logits = self.tokens * vocab * 4 * 4  # float32: written, read for their sums and gradients
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

    # ---------------------------------------------------------------------------------- the network

    def _transfers(self) -> Iterator[Transfer]:
        yield from self._weights()
        if self.setting.along("tensor") > 1:
            yield from self._tensor()
        if self.setting.along("context") > 1:
            yield from self._context()
        if self.setting.along("expert") > 1:
            yield from self._experts()

    def _weights(self) -> Iterator[Transfer]:
        """Parameters gathered, gradients summed."""
        micro = self.setting.accumulation
        for array in self.facts.params:
            split = ways_of(array, self.mesh, "fsdp")
            own = array.size / self._ways_but(array, "fsdp")  # what one device holds when gathered
            matrix = array.path.endswith(("kernel", "table"))
            wide = self.wide if matrix else array.itemsize
            if split > 1 and self.setting.zero == 3:
                gathers = 1 if array.path.startswith(("embed", "unembed")) else 2
                yield self._transfer("all-gather", ("fsdp",), own * wide * gathers * micro)
                yield self._transfer(
                    "reduce-scatter", ("fsdp",), own * self._gradient_bytes(array) * micro
                )
            elif self.setting.along("fsdp") > 1:
                kind = "reduce-scatter" if split > 1 else "all-reduce"
                yield self._transfer(kind, ("fsdp",), own * self._gradient_bytes(array) * micro)
                if split > 1:
                    yield self._transfer("all-gather", ("fsdp",), own * array.itemsize)
            # what no axis of the batch splits is summed over all of them
            left = own / (split if self.setting.along("fsdp") > 1 else 1)
            for axis in ("data", "expert", "context"):
                if self.setting.along(axis) > 1 and axis not in mesh_axes(array):
                    yield self._transfer(
                        "all-reduce", (axis,), left * self._gradient_bytes(array) * micro
                    )

    def _gradient_bytes(self, array: Array) -> int:
        """Of an element as it is summed over devices: the head's are float32, a tied one's two."""
        if self.facts.tied and array.path == "embed/table":
            return 4 + self.wide
        head = "unembed" in array.path
        return 4 if head or not array.path.endswith(("kernel", "table")) else self.wide

    def _ways_but(self, array: Array, axis: str) -> int:
        return math.prod(ways(a, self.mesh, (axis,)) for a in array.axes)

    def _tensor(self) -> Iterator[Transfer]:
        """What each part adds to the stream, summed over the heads and the ffn's width."""
        stream = self.tokens * self.facts.hidden * self.wide
        layers = sum(layers.count for layers in self.facts.layers)
        again = self.kept.recomputes("attention_out") + self.kept.recomputes("ffn_out")
        yield self._transfer("all-reduce", ("tensor",), stream * layers * (4 + again))
        yield self._transfer(
            "all-reduce", ("tensor",), 2 * stream
        )  # embedding; the head's gradient

    def _context(self) -> Iterator[Transfer]:
        """Keys and values of the whole length for each device's queries."""
        parts = self.setting.along("context")
        one = self.facts.layers[0].tensors
        own = sum(token_part(one[name], self.mesh) for name in ("key", "value") if name in one)
        whole = self.tokens * parts * own * self.wide * sum(x.count for x in self.facts.layers)
        again = 1 + self.kept.recomputes_attention
        yield self._transfer("all-gather", ("context",), whole * again)
        yield self._transfer("reduce-scatter", ("context",), whole)

    def _experts(self) -> Iterator[Transfer]:
        """A token's copies, to its experts and back."""
        for layers in self.facts.layers:
            if layers.experts is None:
                continue
            rows = self.tokens * layers.experts.experts_per_token * self.facts.hidden * self.wide
            times = 2 * (2 + (self.kept.policy != "none"))
            yield self._transfer("all-to-all", ("expert",), rows * times * layers.count)

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

    # ----------------------------------------------------------------------------------- the memory

    def _host_bytes(self) -> float:
        """Of what waits in the host's memory: out and in again, each once a step."""
        total = 0.0
        for layers in self.facts.layers:
            total += (
                2 * kept_per_token(self.kept.on_host, layers, self.mesh, self.wide) * layers.count
            )
            if self.setting.offload_input:
                total += 2 * self.facts.hidden * layers.count
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
