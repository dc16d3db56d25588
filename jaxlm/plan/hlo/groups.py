"""The groups of devices in a collective, and their mesh axes and networks.

XLA writes the groups of a collective in four forms:

    {{0,1},{2,3}}                          the groups themselves
    [2,8]<=[8,2]T(1,0)                     ids 0..15 as an 8 x 2 array, turned, cut in 2 groups
    mesh['a'=8,'b'=2] {'a'}                ids as an array of named dims: a group along those named
    source_target_pairs={{0,1},{1,0}}      of a permutation

A device's id is its place in the mesh, in the order of its axes, so groups become axes:

    axes_of(groups("[2,8]<=[8,2]T(1,0)", 16), {"fsdp": 8, "tensor": 2})     # ("fsdp",)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))?\s*\{([^}]*)\}")
_AXIS = re.compile(r"'?([\w.]+)'?(?::\((\d+)\)(\d+))?")


def groups(text: str, num_devices: int) -> np.ndarray:
    """[groups, members] of device ids; `text` is what follows `replica_groups=`.

    Raises ValueError for a form that is not known: a wrong count is worse than none.
    """
    mesh = _MESH.match(text)
    if mesh:
        return _of_mesh(mesh)
    iota = _IOTA.match(text)
    if iota:
        return _iota(iota)
    if not text.startswith("{"):
        raise ValueError(f"unknown form of replica groups: {text[:80]!r}")
    text = text[: text.index("}}") + 2] if text.startswith("{{") else "{}"
    rows = [_numbers(part) for part in re.findall(r"\{([\d,]*)\}", text)]
    rows = [row for row in rows if row]
    return np.array(rows) if rows else np.arange(num_devices)[None]


def pairs(text: str) -> np.ndarray:
    """[pairs, 2] of (source, target), of what follows `source_target_pairs=`."""
    found = [_numbers(part) for part in re.findall(r"\{(\d+,\d+)\}", text)]
    return np.array(found).reshape(-1, 2)


def axes_of(members: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of a mesh along which the devices of one group differ."""
    places = np.stack(
        np.unravel_index(members, tuple(mesh.values())), -1
    )  # [groups, members, axes]
    differs = (places != places[:, :1]).any((0, 1))
    return tuple(axis for axis, d in zip(mesh, differs, strict=True) if d)


def crosses(members: np.ndarray, slices: Sequence[int]) -> int:
    """The number of slices that the devices of a group are in, at most."""
    return max(len(set(row)) for row in np.asarray(slices)[members].tolist())


def _iota(match: re.Match[str]) -> np.ndarray:
    shape, dims = _numbers(match[1]), _numbers(match[2])
    ids = np.arange(int(np.prod(dims))).reshape(dims)
    if match[3]:
        ids = ids.transpose(_numbers(match[3]))
    return ids.reshape(shape)


def _of_mesh(match: re.Match[str]) -> np.ndarray:
    sizes = {
        name.strip().strip("'"): int(size)
        for name, size in (part.split("=") for part in match[1].split(",") if part)
    }
    ids = np.arange(int(np.prod(list(sizes.values()) or [1])))
    if match[2]:
        turned = _IOTA.match(match[2]) or re.match(r"\[([\d,]+)\]T\(([\d,]+)\)", match[2])
        if turned is None:
            raise ValueError(f"unknown order of devices: {match[2]!r}")
        if turned.re is _IOTA:
            ids = _iota(turned).reshape(-1)
        else:
            ids = ids.reshape(_numbers(turned[1])).transpose(_numbers(turned[2])).reshape(-1)
    # A name may be a part of an axis, 'a':(before)size: cut every axis into the parts named.
    dims: list[int] = []
    chosen: list[int] = []
    named = [part for part in match[3].split(",") if part.strip()]
    for name, size in sizes.items():
        parts = [m for m in map(_AXIS.match, map(str.strip, named)) if m and m[1] == name]
        if parts and parts[0][2]:
            before, own = int(parts[0][2]), int(parts[0][3])
            dims += [before, own, size // before // own]
            chosen.append(len(dims) - 2)
        else:
            dims.append(size)
            if parts:
                chosen.append(len(dims) - 1)
    rest = [dim for dim in range(len(dims)) if dim not in chosen]
    members = int(np.prod([dims[dim] for dim in chosen] or [1]))
    return ids.reshape(dims).transpose([*rest, *chosen]).reshape(-1, members)


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]
