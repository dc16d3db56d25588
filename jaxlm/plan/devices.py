"""The chips that a plan knows, and how a topology is written: `v5p:4x4x8`, `h100:16x8`.

    topology = Topology.read("v5p:4x4x8", slices=2)
    topology.num_devices, topology.chip.peak("bf16"), topology.ring_bandwidth(64)

Figures are the makers' for one chip, dense, as published in 2025:
TPUs: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}; bandwidth of a link, of PCIe and of the
network beyond a slice a chip: "How to Scale Your Model" (jax-ml.github.io/scaling-book, 2025),
chapter 2; for tpu7x the documented 1,200 GB/s over six links, both ways. `hbm_bytes` is the
compiler's limit for a program (libtpu 0.0.42 reports it when one does not fit). GPUs: the data
sheets of NVIDIA H100 SXM and A100 80 GB SXM; networks as in DGX H100 and A100 (one 400 or 200
Gbit/s port a GPU). Prices: list, on demand, USD per chip-hour in us regions, 2025
(cloud.google.com/tpu/pricing; a3-highgpu-8g and a2-ultragpu-8g by GPU); `--price` overrides them.
`clock`: the peak divided by the multiplications of its matrix units in a cycle (4 of 128 x 128 on
v5e, 8 on v4 and v5p, 4 of 256 x 256 on v6e).
`on_chip_bytes`: the vector memory of a TPU's cores as jax has it for its kernels
(jax/_src/pallas/mosaic/tpu_info.py, jax 0.10.2); the second-level cache of NVIDIA's data sheets.

The efficiency factors are not in any data sheet. There are few; each has a physical meaning and one
value for a generation or for all chips, never for a model or a run: `matmul`, the share of the peak
that large bfloat16 matmuls reach, and the constants below. `matmul` of a TPU generation was fitted
to its published runs (`tools/published_runs.tsv`), so their errors are not those of unseen runs; v4
has one run, whose error is not informative. `tools/validate_plan.py` also prints leave-one-out
errors. For GPUs there is no run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxlm.core.config import UserError

GiB, MiB = 2**30, 2**20

HBM_SHARE = 0.85  # attainable share of the HBM's peak: refresh, read-write turns, short rows
NETWORK_SHARE = 0.85  # attainable share of a link's peak: headers, barriers between ring steps
EXPOSED = 0.12  # share of hideable transfers that is exposed: the first and the last
DEPENDENT = 0.5  # share of dependent transfers (tensor, expert, context) that is exposed
ATTENTION_SHARE = 0.60  # rate of attention kernels relative to matmuls: softmax between products
GROUPED_SHARE = 0.70  # rate of grouped matmuls relative to matmuls: ragged groups, small tiles
SAFE_SHARE = 0.94  # share of HBM that a safe plan may use: fragmentation, other programs
ANALYTIC_SHARE = 0.85  # the same for the analytic model: activations are known to some per cent


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One chip; rates in FLOP/s and bytes/s, of the whole chip."""

    name: str
    label: str
    kind: str  # jax's device_kind
    peaks: Mapping[str, float]  # by dtype
    matmul: float  # attainable share of the bf16 peak by large products
    hbm_bytes: float  # that a program can have
    hbm_bandwidth: float
    link_bandwidth: float  # one link, one direction
    dims: int  # dims of the torus; 0: all-to-all within a node, as GPUs
    host_bandwidth: float  # between a chip and its host's memory, one direction
    dcn_bandwidth: float  # a chip's share of the network beyond a slice or node, one direction
    on_chip_bytes: float  # the memory next to its cores: VMEM, or a GPU's second-level cache
    devices: int = 1  # jax devices a chip
    chips_per_host: int = 4
    cores: str | None = None  # libtpu's word for cores that are one device; None: as it has them
    clock: float | None = None  # Hz of the core whose cycles the compiler counts; None: unknown
    wraps_at: int = 4  # a dim of a multiple of this many chips is a ring
    price: float  # USD a chip-hour
    capability: float | None = None  # a GPU's compute capability

    @property
    def is_tpu(self) -> bool:
        return self.dims > 0

    def peak(self, dtype: str = "bf16") -> float:
        """FLOP/s of the whole chip; float32 products run in several bfloat16 passes."""
        if dtype in ("f32", "f64"):
            return self.peaks.get("f32", self.peaks["bf16"] / 6)
        if dtype.startswith(("s8", "u8", "s4", "u4")):
            return self.peaks.get("s8", self.peaks["bf16"])
        if dtype.startswith("f8"):
            return self.peaks.get("f8", self.peaks["bf16"])
        return self.peaks["bf16"]


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            label="TPU v4",
            kind="TPU v4",
            cores="megacore",
            clock=1.05e9,
            peaks={"bf16": 275e12},
            matmul=0.74,
            hbm_bytes=30.5 * GiB,
            hbm_bandwidth=1228e9,
            on_chip_bytes=32 * MiB,
            link_bandwidth=45e9,
            dims=3,
            host_bandwidth=15e9,
            dcn_bandwidth=6.25e9,
            price=3.22,
        ),
        Chip(
            name="v5e",
            label="TPU v5e",
            kind="TPU v5 lite",
            clock=1.50e9,
            peaks={"bf16": 197e12, "s8": 394e12},
            matmul=0.80,
            hbm_bytes=15.75 * GiB,
            hbm_bandwidth=819e9,
            on_chip_bytes=128 * MiB,
            link_bandwidth=45e9,
            dims=2,
            host_bandwidth=15e9,
            dcn_bandwidth=3.125e9,
            wraps_at=16,
            price=1.20,
        ),
        Chip(
            name="v5p",
            label="TPU v5p",
            kind="TPU v5",
            clock=1.75e9,
            peaks={"bf16": 459e12, "s8": 918e12},
            matmul=0.86,
            hbm_bytes=95.74 * GiB,
            hbm_bandwidth=2765e9,
            on_chip_bytes=128 * MiB,
            link_bandwidth=90e9,
            dims=3,
            host_bandwidth=15e9,
            dcn_bandwidth=6.25e9,
            price=4.20,
        ),
        Chip(
            name="v6e",
            label="TPU v6e",
            kind="TPU v6 lite",
            clock=1.75e9,
            peaks={"bf16": 918e12, "s8": 1836e12},
            matmul=0.62,
            hbm_bytes=31.25 * GiB,
            hbm_bandwidth=1640e9,
            on_chip_bytes=128 * MiB,
            link_bandwidth=90e9,
            dims=2,
            host_bandwidth=32e9,
            dcn_bandwidth=12.5e9,
            wraps_at=16,
            price=2.70,
        ),
        Chip(
            name="tpu7x",
            label="TPU7x",
            kind="TPU7x",
            peaks={"bf16": 2307e12, "f8": 4614e12},
            matmul=0.72,
            hbm_bytes=2 * 94.75 * GiB,
            hbm_bandwidth=7380e9,
            on_chip_bytes=128 * MiB,
            link_bandwidth=100e9,
            dims=3,
            host_bandwidth=64e9,
            dcn_bandwidth=12.5e9,
            devices=2,
            price=12.00,
        ),
        Chip(
            name="h100",
            label="NVIDIA H100 SXM",
            kind="NVIDIA H100",
            peaks={"bf16": 989e12, "f8": 1979e12, "s8": 1979e12, "f32": 494e12},
            matmul=0.72,
            hbm_bytes=79.6 * GiB,
            hbm_bandwidth=3350e9,
            on_chip_bytes=50e6,
            link_bandwidth=450e9,
            dims=0,
            host_bandwidth=55e9,
            dcn_bandwidth=50e9,
            chips_per_host=8,
            price=11.06,
            capability=9.0,
        ),
        Chip(
            name="a100",
            label="NVIDIA A100 80 GB SXM",
            kind="NVIDIA A100",
            peaks={"bf16": 312e12, "s8": 624e12, "f32": 156e12},
            matmul=0.80,
            hbm_bytes=79.2 * GiB,
            hbm_bandwidth=2039e9,
            on_chip_bytes=40e6,
            link_bandwidth=300e9,
            dims=0,
            host_bandwidth=25e9,
            dcn_bandwidth=25e9,
            chips_per_host=8,
            price=5.07,
            capability=8.0,
        ),
    )
}


@dataclass(frozen=True)
class Topology:
    """Chips in the shape of a slice, and how many slices; of GPUs nodes x GPUs of a node."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def read(cls, text: str, slices: int = 1, where: str = "--topology") -> Topology:
        """From `v5p:4x4x8`, `2*v5p:4x4x8` (two slices) or `h100:16x8` (nodes x GPUs).

        Raises `UserError` for anything else, with `where` it was written.
        """
        several = re.match(r"([1-9]\d*)\*", text)
        if several:
            rest = text[several.end() :]
            if slices != 1:
                raise UserError(
                    f"--slices: {slices}, but {where}: {text!r} says {several[1]}; leave one of "
                    f"the two out, such as --topology {rest} --slices {slices}"
                )
            found = cls.read(rest, 1, where)
            if not found.chip.is_tpu:
                raise UserError(
                    f"{where}: {text!r}: GPUs have nodes, not slices; write nodes x GPUs of a "
                    f"node, as in {_example(found.chip)}"
                )
            return cls(found.chip, found.shape, int(several[1]))
        name, _, dims = text.partition(":")
        chip = CHIPS.get(name.lower())
        if chip is None:
            known = ", ".join(CHIPS)
            raise UserError(f"{where}: {name!r} is not a known chip; use one of {known}")
        if not re.fullmatch(r"\d+(x\d+)*", dims) or 0 in map(int, dims.split("x")):
            raise UserError(f"{where}: {text!r} has no shape; write it as in {_example(chip)}")
        shape = tuple(int(n) for n in dims.split("x"))
        if len(shape) != (chip.dims or 2):
            raise UserError(
                f"{where}: {chip.label} has {chip.dims or 2} dims, {text} has {len(shape)}; "
                f"write it as in {_example(chip)}"
            )
        if not chip.is_tpu and slices != 1:
            raise UserError("--slices: GPUs have nodes, not slices; leave it out")
        if not chip.is_tpu and shape[1] > chip.chips_per_host:
            raise UserError(
                f"{where}: a node has {chip.chips_per_host} GPUs, not {shape[1]}; "
                f"write nodes x GPUs of a node, as in {_example(chip)}"
            )
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
        """Which dims of the torus are rings."""
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


def _example(chip: Chip) -> str:
    shapes = {3: "4x4x8", 2: "16x16", 0: "16x8"}
    return f"{chip.name}:{shapes[chip.dims]}"
