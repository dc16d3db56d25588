"""The mesh of a config on a topology, or an error that says what to set.

    mesh_on(config.mesh, Topology.read("v5p:4x4x8"))["fsdp"]      # 128

A config's mesh is for one pod. On another pod the error proposes new sizes of its axes, as a plan
cannot use more devices than its topology has.
"""

from __future__ import annotations

import math

from jaxlm.core.config import UserError
from jaxlm.mesh import AXES, MeshConfig
from jaxlm.plan.devices import Topology

CHANGED_FIRST = (
    "fsdp",
    "data",
    "tensor",
)  # among axes of equal size; the others depend on the model


def mesh_on(mesh: MeshConfig, topology: Topology) -> dict[str, int]:
    """Devices on each axis, -1 filled in. Raises `UserError` where they are not the topology's."""
    there, wanted = topology.num_devices, mesh.num_devices
    if wanted is not None and wanted > there:
        raise UserError(
            f"mesh.num_devices: {wanted} asked for, but {topology} has {there} devices; "
            "set mesh.num_devices=null for all there are"
        )
    try:
        return mesh.shape(there)
    except UserError as error:
        if wanted is not None:
            raise
        what = str(error).rpartition(";")[0].replace(f" {there} exist", f" {topology} has {there}")
        raise UserError(f"{what}; {_fix(mesh, topology)}or look for one by --search") from None


def _fix(mesh: MeshConfig, topology: Topology) -> str:
    """ "set mesh.fsdp=128 (or -1), ": the fewest axes that make the mesh one of the topology."""
    own = {axis: getattr(mesh, axis) for axis in AXES}
    sizes = {axis: max(1, size) for axis, size in own.items()}
    if sizes[mesh.dcn] % topology.slices:
        sizes[mesh.dcn] *= topology.slices
    rank = {axis: i for i, axis in enumerate(CHANGED_FIRST)}
    order = sorted(CHANGED_FIRST, key=lambda a: (-sizes[a], rank[a]))
    for axis in (*order, *(a for a in AXES if a not in rank)):
        if math.prod(sizes.values()) == topology.num_devices:
            break
        rest = math.prod(size for a, size in sizes.items() if a != axis)
        size, left = divmod(topology.num_devices, rest)
        if not left and size and (axis != mesh.dcn or size % topology.slices == 0):
            sizes[axis] = size
    else:
        return f"let the axes' product be {topology.num_devices}, "
    changed = [f"mesh.{a}={size}" for a, size in sizes.items() if own[a] not in (size, -1)]
    rest = " (or -1)" if len(changed) == 1 and -1 not in own.values() else ""
    return f"set {' '.join(changed)}{rest}, "
