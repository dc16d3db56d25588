"""The axes of a mesh, the one table of logical-axis rules, and the partition of an array by it.

    spec_of(("embed", "heads", "head_dim"))    # PartitionSpec("fsdp", "tensor", None)

A size must be divisible by the number of devices that it is split over; the error names sizes
that fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm.core.config import UserError
from jaxlm.core.tree import map_with_path

AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")  # slowest network first
LENGTHS = ("length", "stream_length", "head_length")  # logical axes that are a row's length
BATCH_AXES = ("data", "fsdp", "expert")  # a batch is split over all of these

# Logical axis -> mesh axes. `None` is replicated by decision; an axis not in the table is an error.
RULES: dict[str, str | tuple[str, ...] | None] = {
    # parameters
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "latent": "fsdp",
    "mlp": "tensor",
    "gates": "tensor",
    "hidden": "fsdp",
    "norm": None,
    "pos": None,
    "labels": None,
    "buckets": None,
    "rank": None,  # of an adapter
    "layers": "stage",
    "experts": "expert",
    # activations
    "batch": BATCH_AXES,
    "length": ("context",),
    "stream_length": ("context", "tensor"),  # between the products that heads and ffns split
    "head_length": ("context", "stage"),  # after a pipeline, its stages share the head
    "act_embed": None,
    "act_latent": None,
    "act_heads": "tensor",
    "act_kv_heads": "tensor",
    "act_mlp": "tensor",
    "act_gates": "tensor",
    "act_vocab": "tensor",
    "head_vocab": ("tensor", "fsdp"),  # where a head's loss gathers tokens instead of its kernel
    "act_experts": None,
    "act_hidden": None,
}


def spec_of(axes: Sequence[str | None], *, without: Sequence[str] = ()) -> PartitionSpec:
    """The partition of an array with these logical axes; mesh axes in `without` are left out."""
    parts: list[Any] = []
    for axis in axes:
        if axis is not None and axis not in RULES:
            raise UserError(
                f"logical axis {axis!r}: not in the rule table; use one of {', '.join(RULES)}"
            )
        rule = RULES[axis] if axis is not None else None
        names = (rule,) if isinstance(rule, str) else (rule or ())
        names = tuple(name for name in names if name not in without)
        parts.append(names[0] if len(names) == 1 else (names or None))
    return PartitionSpec(*parts)


def param_shardings(abstract: Any, axes: Any, mesh: Mesh, *, without: Sequence[str] = ()) -> Any:
    """A NamedSharding for each parameter of a nested dict, from its logical axes.

    Mesh axes in `without` do not split a parameter, but must still divide its size.
    Raises `UserError` with the parameter, the axis and sizes that fit if an axis does not divide.
    """

    def one(path: str, leaf: Any, names: Sequence[str]) -> NamedSharding:
        spec = spec_of(names)
        for dim, (size, part) in enumerate(zip(leaf.shape, spec, strict=True)):
            check_divides(size, part, mesh, f"parameter {path}: dim {dim} ({names[dim]})")
        return NamedSharding(mesh, spec_of(names, without=without))

    return map_with_path(one, abstract, axes)


def check_divides(size: int, part: Any, mesh: Mesh, what: str) -> None:
    """Raises `UserError` if `size` is not divisible by the devices of the mesh axes `part`.

    The error has the sizes nearest to it that are, and the most of these devices that divide it.
    """
    names = (part,) if isinstance(part, str) else tuple(part or ())
    count = math.prod(mesh.shape[name] for name in names)
    if size % count:
        below = size // count * count
        sizes = " or ".join(str(n) for n in (below, below + count) if n)
        fit = math.gcd(size, count)
        raise UserError(
            f"{what} of size {size} cannot be split over {count} devices of mesh axis "
            f"{'+'.join(names)}; use a size of {sizes}, or {fit} "
            f"device{'s' if fit > 1 else ''} there"
        )
