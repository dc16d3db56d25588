"""The part of a run that a search may change: its mesh, its micro-batches, its remat policy.

setting = Setting(mesh={"fsdp": 16}, batch_size=256, remat="full")
setting.tokens(4096), setting.layer_share
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.nn.stack import Remat
from jaxlm.plan.closed_form.facts import Facts
from jaxlm.plan.closed_form.remat import Kept, keeping
from jaxlm.plan.closed_form.stacks import Stack
from jaxlm.plan.devices import Topology


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The part of a run that a search may change."""

    mesh: Mapping[str, int]
    batch_size: int
    accumulation: int = 1
    remat: str = "none"
    saved: tuple[str, ...] = ()
    offloaded: tuple[str, ...] = ()
    others: tuple[tuple[str, Remat], ...] = ()  # (path, remat) of stacks whose own is another
    context: str = "auto"  # the kernel for a split length: auto, reference or ring
    zero: int = 3
    dcn: str = "data"
    stage_repeats: int = 1
    slices: int = 1  # or nodes of GPUs
    tpu_slices: int = 1  # slices that the axis `dcn` spans
    block: int = 512  # rows and columns of a block of scores in the attention kernel
    platform: str | None = None  # whose kernels are meant; None: the topology's
    gpu: float | None = None  # compute capability, of a topology of GPUs
    offload_input: bool = False  # the layers' inputs are offloaded to the host (published runs)

    def platform_on(self, topology: Topology) -> str:
        """The platform whose kernels a step on a topology uses."""
        return self.platform or ("tpu" if topology.chip.is_tpu else "gpu")

    def along(self, *axes: str) -> int:
        return math.prod(self.mesh.get(axis, 1) for axis in axes)

    def tokens(self, seq_len: int) -> float:
        """The tokens of a step on one device."""
        rows = self.along("data", "fsdp", "expert")
        return self.batch_size / rows * seq_len / self.along("context")

    def kept(self, stack: Stack) -> Kept:
        """The tensors that the layers of a stack save for their backward pass."""
        own = dict(self.others).get(stack.path, Remat(self.remat, self.saved, self.offloaded))
        return keeping(own.policy, own.saved, own.offloaded, norm_follows=stack.norm_follows)

    def stack_tokens(self, stack: Stack, length: int | None = None) -> float:
        """The tokens of a step in a stack on one device; `length`: of the rows, if not its own."""
        whole = 1 if stack.splits_length else self.along("context")
        return self.tokens(stack.length if length is None else length) * whole

    def stream_part(self, stack: Stack) -> float:
        """The share of a token's hidden state that a device holds between sublayers."""
        return stack.hidden / (self.along("tensor") if stack.splits_stream else 1)

    @property
    def turns(self) -> int:
        """The turns of a pipeline, each a piece of layers for a micro-batch, with idle ones."""
        stages, micro = self.along("stage"), self.accumulation
        rounds = max(micro, stages) if self.stage_repeats > 1 else micro
        return self.stage_repeats * rounds + stages - 1

    @property
    def layer_share(self) -> float:
        """The share of all layers' work that a device does for its tokens, with idle turns."""
        stages = self.along("stage")
        if stages == 1:
            return 1.0
        return self.turns / (self.stage_repeats * self.accumulation * stages)

    @property
    def passes(self) -> float:
        """Passes through a device's layers in a step, each with an all-gather of the weights."""
        return self.turns / self.stage_repeats if self.along("stage") > 1 else self.accumulation

    @property
    def rounds(self) -> int:
        """Passes through embedding and head in a step: a pipeline has one, for the whole batch."""
        return 1 if self.along("stage") > 1 else self.accumulation


def setting_of(facts: Facts, mesh: Mapping[str, int], topology: Topology) -> Setting:
    """The setting that a run's config has."""
    config: Any = facts.config
    main, *rest = facts.stacks
    remat = main.remat
    return Setting(
        mesh=mesh,
        batch_size=config.train.batch_size,
        accumulation=config.train.accumulation,
        remat=remat.policy,
        saved=remat.saved,
        offloaded=remat.offloaded,
        others=tuple((s.path, s.remat) for s in rest if s.remat != remat),
        context=next((look.context for look in main.looks), "auto"),
        zero=config.mesh.zero,
        dcn=config.mesh.dcn,
        stage_repeats=config.mesh.stage_repeats,
        slices=topology.fast_groups,
        tpu_slices=topology.slices,
        gpu=topology.chip.capability,
    )


def schedule_of(
    mesh: Mapping[str, int], *, zero: int, repeats: int, dcn: str, slices: int, ring: bool
) -> list[str]:
    """The schedule of a mesh in words; empty for the defaults."""
    found = []
    if mesh.get("fsdp", 1) > 1 and zero == 1:
        found.append("parameters whole (zero 1)")
    if mesh.get("stage", 1) > 1 and repeats > 1:
        found.append(f"stages passed {repeats} times")
    if slices > 1 and dcn != "data":
        found.append(f"{dcn} between slices")
    if mesh.get("context", 1) > 1 and ring:
        found.append("keys in a ring")
    return found
