"""Compares the chips of a launch config with the mesh of a run.

    check_mesh(tpu_chips("accelerator_type: v5p-32", "v5p-32"), job.values["mesh"])

A mesh that is larger or smaller than the requested machines is an error before the machines are
paid for. What a launch config does not state, such as the GPUs of a queue, is not checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.core.chips import CHIPS, cloud_chip
from jaxlm.core.config import UserError

AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")
GPU = "gpu"  # of an unknown kind


@dataclass(frozen=True, kw_only=True)
class Chips:
    """The accelerators of a launch config; None: it does not say."""

    text: str  # the part of the launch config, for errors
    kind: str | None  # a name of `CHIPS`, another maker's name, `GPU`; None: simulated devices
    count: int | None = None  # chips in all
    slices: int | None = None  # of TPUs
    shape: str = ""  # of a slice

    @property
    def devices(self) -> int | None:
        """The number of jax devices."""
        chip = CHIPS.get(self.kind or "")
        return None if self.count is None else self.count * (chip.devices if chip else 1)

    @property
    def is_tpu(self) -> bool:
        chip = CHIPS.get(self.kind or "")
        return chip is not None and chip.is_tpu

    def __str__(self) -> str:
        count = "" if self.count is None else f"{self.count} "
        name = f"chips of {self.kind}" if self.is_tpu else "GPUs"
        if not self.is_tpu and self.kind not in (GPU, None):
            name = f"GPUs of {self.kind}"
        several = f" in {self.slices} slices" if (self.slices or 1) > 1 else ""
        return f"{count}{name}{several}"


def tpu_chips(text: str, name: str) -> Chips | None:
    """The chips of an accelerator type, such as v5p-32 (16 chips) or v6e-256."""
    found = re.fullmatch(r"(?:tpu-)?(\w+)-(\d+)", name.lower())
    chip = None if found is None else cloud_chip(found[1])
    if found is None or chip is None:
        return None
    count = None if chip.type_counts is None else max(1, int(found[2]) // chip.type_counts)
    return Chips(text=text, kind=chip.name, count=count, slices=1)


def check_mesh(chips: Chips | None, mesh: Mapping[str, Any]) -> None:
    """Raises `UserError` if a run's mesh, as plain values, does not fit these chips."""
    if chips is None:
        return
    if mesh["topology"] is not None and chips.kind is not None:
        _check_topology(chips, str(mesh["topology"]))
    if chips.devices is not None:
        _check_axes(chips, chips.devices, mesh)


def _check_topology(chips: Chips, text: str) -> None:
    found = re.fullmatch(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)", text)
    if found is None:
        return  # `jaxlm plan` reports what is wrong with it
    slices, kind = int(found[1] or 1), found[2].lower()
    count = slices * math.prod(map(int, found[3].split("x")))
    meant = Chips(text="", kind=kind, count=count, slices=slices)
    right_kind = kind == chips.kind or (chips.kind == GPU and not meant.is_tpu)
    right_slices = not meant.is_tpu or chips.slices in (None, slices)
    if right_kind and right_slices and chips.count in (None, count):
        return
    own = "null"
    if chips.shape:
        own = f"{f'{chips.slices}*' if (chips.slices or 1) > 1 else ''}{chips.kind}:{chips.shape}"
    raise UserError(
        f"mesh.topology: {text} is {meant}, but {chips.text} is {chips}; launch it on the chips "
        f"of its topology, or set mesh.topology={own} and a mesh for it"
    )


def _check_axes(chips: Chips, devices: int, mesh: Mapping[str, Any]) -> None:
    wanted = mesh["num_devices"]
    if wanted is not None and wanted > devices:
        raise UserError(
            f"mesh.num_devices: {wanted}, but {chips.text} has {devices} devices; set "
            "mesh.num_devices=null to use all of them"
        )
    devices = wanted or devices
    sizes = {axis: mesh[axis] for axis in AXES}
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if devices % fixed or (-1 not in sizes.values() and fixed != devices):
        shown = " x ".join(f"{axis} {n}" for axis, n in sizes.items() if n != 1) or "1 device"
        raise UserError(
            f"mesh: {shown} does not match the {devices} devices of {chips.text}; "
            f"{_fix(sizes, devices, mesh['dcn'], chips.slices or 1)}"
        )
    dcn, slices = mesh["dcn"], chips.slices or 1
    size = devices // fixed if sizes[dcn] == -1 else sizes[dcn]
    if size % slices:
        raise UserError(
            f"mesh.{dcn}: {size} is not a multiple of the {slices} slices of {chips.text}; set it "
            f"to a multiple of {slices}"
        )


def _fix(sizes: Mapping[str, int], devices: int, dcn: str, slices: int) -> str:
    """The fewest axes to change so that the mesh has this number of devices."""
    new = dict(sizes)
    if new[dcn] != -1 and new[dcn] % slices:
        new[dcn] = slices
    for axis in sorted(("fsdp", "data", "tensor"), key=lambda a: -new[a]):
        rest = math.prod(n for a, n in new.items() if a != axis and n != -1)
        size, left = divmod(devices, rest)
        if not left and (axis != dcn or size % slices == 0):
            new[axis] = size
            changed = [f"mesh.{a}={n}" for a, n in new.items() if n != sizes[a]]
            return f"set {' '.join(changed)}, or launch it on as many devices as its mesh has"
    return f"set axes with the product {devices}, or launch it on as many devices as its mesh has"
