"""The accelerators that jaxlm knows: one table, from which launches, plans and training read.

    CHIPS["v5p"].peak("bf16")                # 459e12, FLOP/s of a chip
    chip_of("TPU v5 lite").name              # "v5e": from the name that jax gives a device
    cloud_chip("v5litepod").name             # "v5e": from the name of a type in Google Cloud

Figures are the makers', for one chip, dense, as published in 2025. Sources, by field:

peaks, hbm_bandwidth   TPUs: docs.cloud.google.com/tpu/docs/{v2,v3,v4,v5e,v5p,v6e,tpu7x}. GPUs:
                       NVIDIA's data sheets of A100 80 GB SXM, H100 SXM, H200 SXM and B200
type_counts            the same pages: types of v2, v3, v4 and v5p count TensorCores
slice_chips            the same pages: the largest slice that one job can have
hbm_bytes              what the compiler gives a program: libtpu 0.0.42 names it in an error
on_chip_bytes          TPUs: the vector memory of the cores (jax/_src/pallas/mosaic/tpu_info.py, jax
                       0.10.2). GPUs: the second-level cache of the data sheets
link_bandwidth,        TPUs: "How to Scale Your Model" (jax-ml.github.io/scaling-book, 2025),
host_bandwidth,        chapter 2; for tpu7x the documented 1,200 GB/s over six links, both ways.
dcn_bandwidth          GPUs: the data sheets; networks as in DGX A100 and H100, one port of 200 or
                       400 Gbit/s for each GPU
clock                  the peak over what the matrix units multiply in a cycle: 4 of 128 x 128 on
                       v5e, 8 on v4 and v5p, 4 of 256 x 256 on v6e
price                  list, on demand, USD a chip-hour in us regions: cloud.google.com/tpu/pricing;
                       a3-highgpu-8g and a2-ultragpu-8g for each GPU
matmul                 the share of the peak that large bfloat16 products reach. It is fitted, see
                       `jaxlm.plan.devices`

A new chip is one entry here. A `Chip` is enough to launch and to train; `jaxlm plan` needs a
`PlannedChip`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GiB, MiB = 2**30, 2**20


@dataclass(frozen=True, kw_only=True)
class Chip:
    """The facts about a chip that launches and training need; rates are those of the whole chip."""

    name: str
    label: str
    kinds: tuple[str, ...]  # what jax's device_kind begins with
    peaks: Mapping[str, float]  # FLOP/s by dtype
    devices: int = 1  # jax devices a chip
    cloud: tuple[str, ...] = ()  # names in Google Cloud's types, such as v5litepod
    type_counts: int | None = 1  # what the number in such a type counts a chip; None: not known
    xla: Mapping[str, str] = field(default_factory=dict)  # options of the compiler for its programs

    @property
    def is_tpu(self) -> bool:
        return self.kinds[0].startswith("TPU")

    def peak(self, dtype: str = "bf16") -> float:
        """FLOP/s of the whole chip; float32 products run in several bfloat16 passes."""
        if dtype in ("f32", "f64"):
            return self.peaks.get("f32", self.peaks["bf16"] / 6)
        if dtype.startswith(("s8", "u8", "s4", "u4")):
            return self.peaks.get("s8", self.peaks["bf16"])
        if dtype.startswith("f8"):
            return self.peaks.get("f8", self.peaks["bf16"])
        return self.peaks["bf16"]


@dataclass(frozen=True, kw_only=True)
class PlannedChip(Chip):
    """A chip with the figures of a plan; bandwidths in bytes/s."""

    matmul: float  # attainable share of the bf16 peak by large products
    hbm_bytes: float  # that a program can have
    hbm_bandwidth: float
    link_bandwidth: float  # one link, one direction
    dims: int  # of the torus; 0: all-to-all within a node, as GPUs
    host_bandwidth: float  # between a chip and its host's memory, one direction
    dcn_bandwidth: float  # a chip's share of the network beyond a slice or node, one direction
    on_chip_bytes: float  # of the memory beside its cores: VMEM, or a GPU's second-level cache
    chips_per_host: int = 4
    cores: str | None = None  # libtpu's name for cores that are one device; None: its default
    clock: float | None = None  # Hz of the core that the compiler counts cycles of; None: not known
    wraps_at: int = 4  # a dim of a multiple of this many chips is a ring
    slice_chips: int = 256  # of the largest slice; of TPUs alone
    price: float  # USD a chip-hour
    capability: float | None = None  # of a GPU: the compute capability, for cuDNN


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v2",
            label="TPU v2",
            kinds=("TPU v2",),
            cloud=("v2",),
            type_counts=2,
            peaks={"bf16": 45e12},
            devices=2,
        ),
        Chip(
            name="v3",
            label="TPU v3",
            kinds=("TPU v3",),
            cloud=("v3",),
            type_counts=2,
            peaks={"bf16": 123e12},
            devices=2,
        ),
        PlannedChip(
            name="v4",
            label="TPU v4",
            kinds=("TPU v4",),
            cloud=("v4",),
            type_counts=2,
            cores="megacore",
            clock=1.05e9,
            peaks={"bf16": 275e12},
            matmul=0.73,
            hbm_bytes=30.5 * GiB,
            hbm_bandwidth=1228e9,
            on_chip_bytes=32 * MiB,
            link_bandwidth=45e9,
            dims=3,
            slice_chips=4096,
            host_bandwidth=15e9,
            dcn_bandwidth=6.25e9,
            price=3.22,
        ),
        PlannedChip(
            name="v5e",
            label="TPU v5e",
            kinds=("TPU v5 lite", "TPU v5e"),
            xla={"xla_tpu_scoped_vmem_limit_kib": "32768"},
            cloud=("v5litepod", "v5e", "v5-lite"),
            clock=1.50e9,
            peaks={"bf16": 197e12, "s8": 394e12},
            matmul=0.82,
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
        PlannedChip(
            name="v5p",
            label="TPU v5p",
            kinds=("TPU v5", "TPU v5p"),
            xla={"xla_tpu_scoped_vmem_limit_kib": "32768"},
            cloud=("v5p",),
            type_counts=2,
            clock=1.75e9,
            peaks={"bf16": 459e12, "s8": 918e12},
            matmul=0.81,
            hbm_bytes=95.74 * GiB,
            hbm_bandwidth=2765e9,
            on_chip_bytes=128 * MiB,
            link_bandwidth=90e9,
            dims=3,
            slice_chips=6144,
            host_bandwidth=15e9,
            dcn_bandwidth=6.25e9,
            price=4.20,
        ),
        PlannedChip(
            name="v6e",
            label="TPU v6e",
            kinds=("TPU v6 lite", "TPU v6e"),
            xla={"xla_tpu_scoped_vmem_limit_kib": "98304"},
            cloud=("v6e",),
            clock=1.75e9,
            peaks={"bf16": 918e12, "s8": 1836e12},
            matmul=0.61,
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
        PlannedChip(
            name="tpu7x",
            label="TPU7x",
            kinds=("TPU7x",),
            xla={"xla_tpu_scoped_vmem_limit_kib": "49152"},
            cloud=("tpu7x",),
            type_counts=None,
            peaks={"bf16": 2307e12, "f8": 4614e12},
            matmul=0.745,
            hbm_bytes=2 * 94.75 * GiB,
            hbm_bandwidth=7380e9,
            on_chip_bytes=128 * MiB,
            link_bandwidth=100e9,
            dims=3,
            slice_chips=9216,
            host_bandwidth=64e9,
            dcn_bandwidth=12.5e9,
            devices=2,
            price=12.00,
        ),
        PlannedChip(
            name="h100",
            label="NVIDIA H100 SXM",
            kinds=("NVIDIA H100",),
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
        PlannedChip(
            name="a100",
            label="NVIDIA A100 80 GB SXM",
            kinds=("NVIDIA A100",),
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
        Chip(
            name="h200",
            label="NVIDIA H200 SXM",
            kinds=("NVIDIA H200",),
            peaks={"bf16": 989e12, "f8": 1979e12, "s8": 1979e12, "f32": 494e12},
        ),
        Chip(
            name="b200",
            label="NVIDIA B200",
            kinds=("NVIDIA B200",),
            peaks={"bf16": 2250e12},
        ),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a jax device, from its `device_kind`; None for one that is not in the table."""
    found = [
        (len(kind), chip)
        for chip in CHIPS.values()
        for kind in chip.kinds
        if device_kind.startswith(kind)
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def cloud_chip(name: str) -> Chip | None:
    """The chip that Google Cloud calls `name` in a type, such as "v5litepod" in v5litepod-16."""
    return next((chip for chip in CHIPS.values() if name in chip.cloud), None)
