"""The notation of a topology, `v5p:4x4x8`, and the assumptions of a plan about every chip.

    topology = Topology.read("v5p:4x4x8", slices=2)
    topology.num_devices, topology.chip.peak("bf16"), topology.ring_bandwidth(64)

The chips and their figures are those of `jaxlm.core.chips`; `--price` overrides the list price.

The efficiency factors are not in any data sheet. There are few; each has a physical meaning and one
value for a generation or for all chips, never for a model or a run: `matmul`, the share of the peak
that large bfloat16 matmuls reach, and the constants below. `matmul` of a TPU generation is the one
at which the median error of its published runs (`tools/published_runs.tsv`) is 0; the constants for
slices, experts and 8 bits were chosen by the runs that have these. So the errors of these runs are
not those of unseen ones; `tools/validate_plan.py` also prints leave-one-out errors. No GPU has a
published run there.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from jaxlm.core.chips import CHIPS as KNOWN
from jaxlm.core.chips import PlannedChip
from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.plan.slice_shapes import check_offered, meant

HBM_SHARE = 0.85  # attainable share of the HBM's peak: refresh, read-write turns, short rows
NETWORK_SHARE = 0.85  # attainable share of a link's peak: headers, barriers between ring steps
EXPOSED = 0.12  # share of hideable transfers that is exposed: the first and the last
SLICE_NETWORK_SHARE = 0.5  # of the peak between slices: hosts copy, many flows share the switches
SLICE_WAIT = 0.015  # share of a step by which slices wait for the slowest, at each doubling of them
DEPENDENT = 0.5  # share of dependent transfers (tensor, expert, context) that is exposed
ATTENTION_SHARE = 0.60  # rate of attention kernels relative to matmuls: softmax between products
EXPERT_WIDTH = 2000  # width of an expert whose grouped matmuls have half the rate of matmuls
EIGHT_BIT_SHARE = 0.80  # rate of 8-bit matmuls relative to their peak: rounding, scales
HEAD_SIZE = 128  # a narrower head leaves columns of a matrix unit unused in attention
SAFE_SHARE = 0.94  # share of HBM that a safe plan may use: fragmentation, other programs
ANALYTIC_SHARE = 0.85  # the same for the analytic model: activations are known to some per cent

CHIPS = {name: chip for name, chip in KNOWN.items() if isinstance(chip, PlannedChip)}


@dataclass(frozen=True)
class Topology:
    """Chips in the shape of a slice, and how many slices; of GPUs nodes x GPUs of a node."""

    chip: PlannedChip
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def read(cls, text: str, slices: int = 1, where: str = "--topology") -> Topology:
        """From `v5p:4x4x8`, `2*v5p:4x4x8` (two slices) or `h100:16x8` (nodes x GPUs).

        Raises `UserError` for anything else, and for a slice that is not offered, with `where` it
        was written and the topology that was probably meant.
        """
        several = re.match(r"([1-9]\d*)\*", text)
        if several:
            rest = text[several.end() :]
            if slices != 1:
                raise UserError(
                    f"--slices: {slices}, but {where}: {shown(text)} says {several[1]}; leave one "
                    f"of the two out, such as --topology {rest} --slices {slices}"
                )
            found = cls.read(rest, 1, where)
            if not found.chip.is_tpu:
                raise UserError(
                    f"{where}: {shown(text)}: GPUs have nodes, not slices; write nodes x GPUs of a "
                    f"node, as in {_example(found.chip)}"
                )
            return cls(found.chip, found.shape, int(several[1]))
        name, _, dims = text.partition(":")
        chip = CHIPS.get(name.lower())
        hint = meant(text)
        if chip is None:
            known = f"use one of {', '.join(CHIPS)}" if hint is None else f"did you mean {hint}?"
            raise UserError(f"{where}: {shown(name)} is not a known chip; {known}")
        example = f"write it as in {_example(chip)}" if hint is None else f"did you mean {hint}?"
        if not re.fullmatch(r"\d+(x\d+)*", dims) or 0 in map(int, dims.split("x")):
            raise UserError(f"{where}: {shown(text)} has no shape; {example}")
        shape = tuple(int(n) for n in dims.split("x"))
        if len(shape) != (chip.dims or 2):
            raise UserError(
                f"{where}: {chip.label} has {chip.dims or 2} dims, {text} has {len(shape)}; "
                f"{example}"
            )
        if not chip.is_tpu and slices != 1:
            raise UserError("--slices: GPUs have nodes, not slices; leave it out")
        if not chip.is_tpu and shape[1] > chip.chips_per_host:
            raise UserError(
                f"{where}: a node has {chip.chips_per_host} GPUs, not {shape[1]}; "
                f"write nodes x GPUs of a node, as in {_example(chip)}"
            )
        check_offered(chip, shape, where)
        return cls(chip, shape, slices)

    def __str__(self) -> str:
        text = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        return text if self.slices == 1 else f"{self.slices}*{text}"

    @property
    def num_chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def num_devices(self) -> int:
        return self.num_chips * self.chip.devices

    @property
    def devices_per_slice(self) -> int:
        """Devices on one fast network: a slice, or a node of GPUs."""
        if self.chip.is_tpu:
            return self.num_devices // self.slices
        return self.shape[1]

    @property
    def fast_groups(self) -> int:
        """The number of slices, or of nodes of GPUs."""
        return self.num_devices // self.devices_per_slice

    @property
    def hbm_per_device(self) -> float:
        return self.chip.hbm_bytes / self.chip.devices

    def peak_per_device(self, dtype: str = "bf16") -> float:
        return self.chip.peak(dtype) / self.chip.devices

    @property
    def wrapped(self) -> tuple[bool, bool, bool]:
        """The dims of the torus that are rings."""
        found = [dim % self.chip.wraps_at == 0 for dim in self.shape]
        if self.chip.dims == 3:  # optical switches close whole cubes alone
            found = [all(found)] * 3
        return tuple([*found, False, False][:3])  # type: ignore[return-value]

    def ring_bandwidth(self, size: int) -> float:
        """Bytes/s that a device sends in a collective of `size` neighbours within a slice.

        On a torus a group fills some of its dims. A dim that wraps around gives two links, one that
        does not gives one. The devices of a chip share its links.
        """
        chip = self.chip
        if not chip.is_tpu:
            return chip.link_bandwidth
        size = max(1, size // chip.devices) if size > 1 else size
        links, rest = 0, size
        for dim in sorted(self.shape, reverse=True):
            if rest <= 1 or dim == 1:
                continue
            part = math.gcd(rest, dim)
            if part == 1:
                continue
            links += 2 if part == dim and dim % chip.wraps_at == 0 else 1
            rest //= part
        return max(1, links) * chip.link_bandwidth / chip.devices


def _example(chip: PlannedChip) -> str:
    shapes = {3: "4x4x8", 2: "16x16", 0: "16x8"}
    return f"{chip.name}:{shapes[chip.dims]}"
