"""The shapes of the slices that Google Cloud offers, and the topology that a misspelled one meant.

    check_offered(CHIPS["v5e"], (5, 5), "--topology")    # UserError: ... did you mean v5e:4x8?
    meant("v5p-128")                                     # "v5p:4x4x4": the type counts TensorCores
    meant("h100:16")                                     # "h100:2x8"

Sources: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x} and
docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, 2025. In a torus of three dims, a
slice is a part of a cube of 4x4x4, or each dim is a multiple of 4.
"""

from __future__ import annotations

import itertools
import math
import re

from jaxlm.core.chips import CHIPS, PlannedChip
from jaxlm.core.config import UserError

PLANES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
SMALL = ((1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2), (2, 2, 4), (2, 4, 4))  # of a cube


def offered(chip: PlannedChip, shape: tuple[int, ...]) -> bool:
    """Whether slices of a shape are offered, its dims in any order. Any shape of GPUs is."""
    ordered = tuple(sorted(shape))
    if chip.dims == 2:
        return ordered in PLANES
    if chip.dims == 3:
        cubes = all(dim % 4 == 0 for dim in ordered)
        return ordered in SMALL or (cubes and math.prod(ordered) <= chip.slice_chips)
    return True


def check_offered(chip: PlannedChip, shape: tuple[int, ...], where: str) -> None:
    """Raises `UserError` for a shape that is not offered, with one that is."""
    if offered(chip, shape):
        return
    text, chips = "x".join(map(str, shape)), math.prod(shape)
    most = chip.slice_chips
    if chips > most:
        size = max(n for n in map(math.prod, _near(chip, most)) if chips % n == 0)
        raise UserError(
            f"{where}: {chip.name}:{text} has {chips:,} chips, a slice of {chip.label} at most "
            f"{most:,}; use several slices, such as {chips // size}*{spelled(chip, size)}"
        )
    near = sorted(_near(chip, chips), key=lambda s: (abs(math.prod(s) - chips), s))[0]
    raise UserError(
        f"{where}: slices {chip.name}:{text} are not offered; did you mean {chip.name}:"
        f"{'x'.join(map(str, near))} ({math.prod(near)} chips)?"
    )


def shape_of(chip: PlannedChip, chips: int) -> tuple[int, ...] | None:
    """The most compact shape of so many chips; None if no slice or no whole nodes have as many."""
    if not chip.is_tpu:
        node = chip.chips_per_host
        return (1, chips) if chips <= node else (chips // node, node) if chips % node == 0 else None
    found = [shape for shape in _near(chip, chips) if math.prod(shape) == chips]
    return min(found, key=sum) if found else None


def spelled(chip: PlannedChip, chips: int) -> str | None:
    """The topology of so many chips; None where no slice has as many."""
    shape = shape_of(chip, chips)
    return None if shape is None else f"{chip.name}:{'x'.join(map(str, shape))}"


def meant(text: str) -> str | None:
    """The topology that another notation means: a type in Google Cloud (v5p-128, v5litepod-16), a
    number of chips (h100:8, 8xh100), or dims whose product is that number; None if it says nothing.
    """
    text = text.lower().strip()
    names = {n: chip for chip in CHIPS.values() for n in (chip.name, *chip.cloud)}
    for name in sorted(names, key=len, reverse=True):
        chip = names[name]
        found = re.fullmatch(rf"{name}(-|:|x|)((?:\d+x)*\d+)", text)
        before = re.fullmatch(rf"(\d+)[x*]?{name}", text)
        if not isinstance(chip, PlannedChip) or not (found or before):
            continue
        dims = [int(n) for n in (found[2].split("x") if found else [before[1]])]  # type: ignore[index]
        chips = math.prod(dims)
        if found and found[1] == "-" and len(dims) == 1:
            if chip.type_counts is None or chips % chip.type_counts:
                return None
            chips //= chip.type_counts
        return spelled(chip, chips) if chips else None
    return None


def _near(chip: PlannedChip, chips: int) -> list[tuple[int, ...]]:
    """The shapes of slices whose dims are not far beyond so many chips."""
    if chip.dims == 2:
        return [*PLANES]
    most = max(4, min(chips, chip.slice_chips) // 4)
    dims = [n for n in range(4, most + 1, 4) if n <= 64]
    cubes = itertools.combinations_with_replacement(dims, 3)
    return [*SMALL, *(shape for shape in cubes if offered(chip, shape))]
