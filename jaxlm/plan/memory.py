"""The memory of a device by what it is used for, and whether it fits.

    plan = of_compiled(compiled, topology)
    plan.verdict        # "fits", "likely fits", "tight", "does not fit" or "unknown"

The memory of a compiled step is the most that is live at a time, which is the figure that libtpu
compares with the memory of a device. Arguments and temporaries together may be more: with room to
spare the compiler leaves gaps between arrays, and without it packs the same arrays tightly.

A plan "fits" only if the step was compiled as in training and uses at most `SAFE_SHARE` of the
memory. An estimate at best "likely fits", at a smaller share: it is a lower bound, and a compiler
with room to spare was seen to use 1.6 times as much. Above its share a plan is "tight": it may run.
A step that the compiler refused, or without a figure, never fits. Only a plan that fits is safe.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxlm.core.tree import flatten
from jaxlm.plan import devices as facts
from jaxlm.plan.compiling import Compiled, OutOfMemory
from jaxlm.plan.devices import Topology

FITS, LIKELY, TIGHT = "fits", "likely fits", "tight"
TOO_MUCH, UNKNOWN = "does not fit", "unknown"
ROOM = (FITS, LIKELY)
GROUPS = (
    ("attention", "attention"),
    ("cross", "attention"),
    ("ffn", "ffn"),
    ("cell", "recurrence"),
    ("embed", "embedding"),
    ("unembed", "head"),
)

KINDS = {"params": "parameters", "base": "parameters", "opt_state": "optimizer", "ema": "average"}


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes of one kind, of one part of the model, on one device."""

    kind: str  # parameters, optimizer, batch, ...
    module: str
    num_bytes: float
    on_host: bool = False


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory of one device."""

    parts: Sequence[MemoryUse]
    limit: float  # bytes that a program can have
    share: float  # share of the limit that a safe plan may use
    compiled: bool  # with all optimizations, as training compiles it
    refused: OutOfMemory | None = None
    known: bool = True
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def total(self) -> float:
        return sum(p.num_bytes for p in self.parts if not p.on_host)

    @property
    def needed(self) -> float:
        """Bytes on the device as far as they are known; for a refused step, the compiler's."""
        if self.refused is None:
            return self.total
        return max(self.refused.needed or 0.0, self.total, self.limit)

    @property
    def host(self) -> float:
        return sum(p.num_bytes for p in self.parts if p.on_host)

    @property
    def verdict(self) -> str:
        if self.refused is not None:
            return TOO_MUCH
        if not self.known or not math.isfinite(self.total) or self.total <= 0:
            return UNKNOWN
        if self.total > self.limit:
            return TOO_MUCH
        if self.total > self.share * self.limit:
            return TIGHT
        return FITS if self.compiled else LIKELY

    def by_kind(self) -> dict[str, float]:
        """Bytes on the device, of each kind, the largest first."""
        found: dict[str, float] = defaultdict(float)
        for part in self.parts:
            if not part.on_host:
                found[part.kind] += part.num_bytes
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def of_compiled(compiled: Compiled, topology: Topology, *, quick: bool = False) -> MemoryPlan:
    """The memory of a compiled step: XLA's peak, broken down by what it is for."""
    parts = [*state_parts(compiled.learner), *batch_parts(compiled.batch_spec)]
    stats, limit = compiled.stats, topology.hbm_per_device
    common: dict[str, Any] = {"limit": limit, "share": facts.SAFE_SHARE, "compiled": not quick}
    if stats is None:
        return MemoryPlan(parts=parts, known=False, **common)
    arguments = sum(p.num_bytes for p in parts if not p.on_host)
    padding = stats.argument_size_in_bytes - arguments
    if padding > 0:
        parts.append(MemoryUse(kind="tiles' padding of arguments", module="", num_bytes=padding))
    found = compiled.timeline.at_peak
    known = sum(found.values())
    live = live_bytes(stats)
    scale = min(1.0, live / known) if known else 1.0
    parts += [
        MemoryUse(kind=what, module=module, num_bytes=size * scale)
        for (what, module), size in found.items()
    ]
    rest = live - known * scale
    if rest > 0:
        parts.append(
            MemoryUse(kind="temporaries", module="buffers of the compiler", num_bytes=rest)
        )
    out = stats.output_size_in_bytes - stats.alias_size_in_bytes
    parts.append(MemoryUse(kind="outputs", module="", num_bytes=max(0, out)))
    code = stats.generated_code_size_in_bytes
    parts.append(MemoryUse(kind="program", module="", num_bytes=code))
    host = stats.host_temp_size_in_bytes
    if host:
        parts.append(MemoryUse(kind="offloaded", module="", num_bytes=host, on_host=True))
    return MemoryPlan(parts=parts, **common)


def live_bytes(stats: Any) -> float:
    """The most bytes of temporaries that are live at a time, by XLA's statistics of a program.

    Where they have no peak, all temporaries, with the gaps between them.
    """
    peak = getattr(stats, "peak_memory_in_bytes", 0)
    if not peak:
        return float(stats.temp_size_in_bytes)
    out = max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes)
    return max(0.0, peak - stats.argument_size_in_bytes - out)


def of_refused(
    refused: OutOfMemory, estimate: Sequence[MemoryUse], topology: Topology
) -> MemoryPlan:
    """A step that the compiler has no room for; its parts are the analytic model's."""
    limit = refused.available or topology.hbm_per_device
    return MemoryPlan(
        parts=estimate, limit=limit, share=facts.SAFE_SHARE, compiled=True, refused=refused
    )


def state_parts(learner: Any) -> list[MemoryUse]:
    """Bytes of sharded parameters and optimizer state, by part of the model."""
    found: dict[tuple[str, str, bool], float] = defaultdict(float)
    for name, tree in {**learner.abstract_state(), **learner.abstract_frozen()}.items():
        kind = KINDS.get(name, "state")
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        for keys, leaf in leaves:
            path = "/".join(str(getattr(k, "key", getattr(k, "name", ""))) for k in keys)
            host = leaf.sharding.memory_kind == "pinned_host"
            found[kind, group_of(path), host] += shard_bytes(leaf)
    return [
        MemoryUse(kind=kind, module=module, num_bytes=size, on_host=host)
        for (kind, module, host), size in found.items()
    ]


def batch_parts(spec: Mapping[str, Any]) -> list[MemoryUse]:
    return [
        MemoryUse(
            kind="batch", module="", num_bytes=sum(map(shard_bytes, flatten(dict(spec)).values()))
        )
    ]


def shard_bytes(leaf: Any) -> float:
    """Bytes of an abstract array that one device holds."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def group_of(path: str) -> str:
    """The part of the model that a parameter is of, by its path."""
    words = path.split("/")
    if any("norm" in word for word in words):
        return "norm"
    for word, name in GROUPS:
        if word in words:
            return name
    return next((w for w in words if w.startswith(("layers", "cell", "encoder"))), "other")
