"""The config of a mesh, which builds the mesh from the available devices.

    mesh = MeshConfig(data=2, fsdp=-1).build()

Where TPUs have several slices, one axis alone crosses the slow network between them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from jaxlm.core.config import Config, UserError, field
from jaxlm.mesh.rules import AXES


@dataclass(frozen=True, kw_only=True)
class MeshConfig(Config):
    """The number of devices on each axis of the mesh; one may be -1: all remaining devices."""

    data: int = field(
        -1, "replicas of the model, each with a part of the batch", ge=-1, affects="run"
    )
    fsdp: int = field(
        1, "parts that parameters, optimizer state and batch are split into", ge=-1, affects="run"
    )
    tensor: int = field(
        1, "parts that heads, ffn and vocabulary are split into", ge=-1, affects="run"
    )
    context: int = field(1, "parts that the sequence is split into", ge=-1, affects="run")
    expert: int = field(
        1, "parts that the experts and the batch are split into", ge=-1, affects="run"
    )
    stage: int = field(
        1, "parts that the layers are split into, as stages of a pipeline", ge=-1, affects="run"
    )
    stage_repeats: int = field(
        1, "times that a micro-batch passes all stages; more than 1: fewer idle steps", ge=1
    )
    zero: Literal[1, 3] = field(
        3, "what fsdp splits: 3: everything (ZeRO-3); 1: only the optimizer state (ZeRO-1)"
    )
    dcn: Literal["data", "fsdp", "stage"] = field(
        "data",
        "the axis that spans slices, if the TPUs are in several",
        affects="run",
    )
    num_devices: int | None = field(
        None, "number of devices to use; null: all", ge=1, affects="run"
    )
    topology: str | None = field(
        None,
        "the pod that the run is meant for, read by `jaxlm plan`: v6e:16x16, 2*v5p:4x4x8",
        affects="run",
    )

    def validate(self) -> None:
        sizes = {axis: getattr(self, axis) for axis in AXES}
        if 0 in sizes.values():
            raise UserError(
                f"{_axis_of(sizes, 0)}: 0 devices make no mesh; set it to 1 or more, or -1"
            )
        rest = [axis for axis, size in sizes.items() if size == -1]
        if len(rest) > 1:
            raise UserError(f"{' and '.join(rest)} are -1; let only one take the remaining devices")
        if sizes["stage"] == 1 and self.stage_repeats > 1:
            raise UserError(
                "stage_repeats: there is one stage; set stage to 2 or more, or leave it"
            )

    def shape(self, num_devices: int) -> dict[str, int]:
        """Devices on each axis when there are `num_devices` in all, -1 filled in."""
        if self.num_devices is not None:
            if self.num_devices > num_devices:
                raise UserError(
                    f"mesh.num_devices: {self.num_devices} asked for but {num_devices} exist; "
                    f"set it to at most {num_devices}"
                )
            num_devices = self.num_devices
        sizes = {axis: getattr(self, axis) for axis in AXES}
        fixed = math.prod(size for size in sizes.values() if size != -1)
        if -1 in sizes.values():
            if num_devices % fixed:
                raise UserError(
                    f"mesh: {num_devices} devices cannot be split by {_show(sizes)}; "
                    f"make the fixed axes' product ({fixed}) divide {num_devices}"
                )
            sizes[_axis_of(sizes, -1)] = num_devices // fixed
        elif fixed != num_devices:
            fix = (
                f"set mesh.num_devices={fixed} or let one axis be -1"
                if fixed < num_devices
                else "use smaller axes, or start with more devices"
            )
            raise UserError(
                f"mesh: {_show(sizes)} takes {fixed} devices but {num_devices} exist; {fix}"
            )
        return sizes

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh over `devices`, by default those of all processes."""
        devices = list(jax.devices() if devices is None else devices)
        sizes = self.shape(len(devices))
        left_out = {d.process_index for d in devices}
        devices = devices[: math.prod(sizes.values())]
        left_out -= {d.process_index for d in devices}
        if left_out:
            raise UserError(
                f"mesh.num_devices: {len(devices)} devices leave process {min(left_out)} none;"
                " use more devices, or start fewer processes"
            )
        types = (AxisType.Auto,) * len(AXES)
        slices = Counter(getattr(device, "slice_index", 0) for device in devices)
        if len(slices) > 1 and devices[0].platform == "tpu":
            if len(set(slices.values())) > 1:
                raise UserError(
                    f"mesh.num_devices: {len(devices)} devices are not as many of each slice; "
                    f"use a multiple of {len(slices)} times those of one"
                )
            return Mesh(self._over_slices(sizes, len(slices), devices), AXES, axis_types=types)
        # An axis may have a part of a dim of the torus, such as 32 chips of 4 x 4 x 4.
        placed = mesh_utils.create_device_mesh(
            tuple(sizes.values()), devices, allow_split_physical_axes=True
        )
        return Mesh(placed, AXES, axis_types=types)

    def _over_slices(
        self, sizes: Mapping[str, int], slices: int, devices: Sequence[Any]
    ) -> np.ndarray:
        """Devices in the order of the axes; only `dcn` crosses the slow network between slices."""
        if sizes[self.dcn] % slices:
            raise UserError(
                f"mesh.{self.dcn}: {sizes[self.dcn]} parts cannot be divided over {slices} slices; "
                f"make it a multiple of {slices}"
            )
        between = {axis: slices if axis == self.dcn else 1 for axis in sizes}
        within = tuple(size // between[axis] for axis, size in sizes.items())
        return mesh_utils.create_hybrid_device_mesh(
            within, tuple(between.values()), devices, allow_split_physical_axes=True
        )


def _axis_of(sizes: Mapping[str, int], size: int) -> str:
    return next(axis for axis, s in sizes.items() if s == size)


def _show(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size != 1) or "1 device"
