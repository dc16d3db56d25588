"""Param groups by (regex, value), and which dims of a parameter make a matrix.

Groups give each parameter a value by its "/"-path. They are tried in order, and the first whose
pattern is found in the path (`re.search`) gives the value. A parameter without a group is an
error, and so is a group without a parameter:

    weight_decay:
      - {pattern: "embed|head", value: 0.0}
      - {pattern: "kernel$", value: 0.1}
      - {pattern: ".", value: 0.0}

A plain number is the usual rule: that value for matrices (including embeddings and the head), zero
for biases, norm scales and other vectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import REQUIRED, Config, UserError, field
from jaxlm.core.errors import few, shown
from jaxlm.core.tree import flatten, map_with_path

STACKED = ("layers", "experts")  # leading axes that hold independent matrices
VECTORS = ("bias", "scale")  # parameter names that are never a matrix: [heads, head_dim] of a bias
HELD = ("choice_bias",)  # parameters that no optimizer moves: the model does it (`Stack.adjust`)
LOOKUPS = ("vocab", "pos", "labels", "buckets")  # one row an item: not a map between two spaces


@dataclass(frozen=True, kw_only=True)
class Group(Config):
    """A value for the parameters whose path contains a match of the pattern."""

    pattern: str = field(
        REQUIRED, "a regular expression searched in the parameter's path (a/b/kernel)"
    )
    value: float = field(REQUIRED, "the value of the parameters that match", ge=0)

    def validate(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(
                f"pattern: {shown(self.pattern)} is not a regular expression ({error}); fix it"
            ) from None


@dataclass(frozen=True)
class Dims:
    """The dims of a parameter: `stack` holds independent matrices that map `inputs` to `outputs`.

    A vector has only `outputs`.
    """

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def matrix(self) -> tuple[int, ...]:
        """All dims but the stacked ones."""
        return self.inputs + self.outputs


def dims_of(path: str, axes: Sequence[str]) -> Dims:
    """The dims of one parameter, from its path and logical axes.

    Leading "layers" and "experts" are stacked. What remains is a matrix if it has two dims or more
    and is not a bias or scale. The first of its dims is the input and the others the output,
    [D, N, H]; if only the last is "embed" or "rank", that is the output, the others the input,
    [N, H, D].
    """
    first = next((i for i, axis in enumerate(axes) if axis not in STACKED), len(axes))
    stack, rest = tuple(range(first)), tuple(range(first, len(axes)))
    if len(rest) < 2 or path.rpartition("/")[2] in VECTORS:
        return Dims(stack, (), rest)
    cut = -1 if axes[-1] in ("embed", "rank") and axes[first] != axes[-1] else 1
    return Dims(stack, rest[:cut], rest[cut:])


def tree_of_dims(axes: Mapping[str, Any]) -> dict[str, Any]:
    """`Dims` for each parameter of a nested dict of logical axes."""
    return map_with_path(dims_of, axes)


def group_values(
    what: str, groups: float | Sequence[Group], axes: Mapping[str, Any]
) -> dict[str, Any]:
    """A float for each parameter of the nested dict `axes`; `what` names the setting in errors."""
    if not isinstance(groups, Sequence):
        return map_with_path(
            lambda path, a: float(groups) if dims_of(path, a).inputs else 0.0, axes
        )
    hits = {path: _first_match(groups, path) for path in flatten(axes)}
    uncovered = [path for path, hit in hits.items() if hit is None]
    if uncovered:
        raise UserError(
            f"{what}: no pattern covers {few(uncovered)}; "
            'add a group for them, or a last one {pattern: ".", value: ...}'
        )
    for index, group in enumerate(groups):
        if index not in hits.values():
            taken = any(re.search(group.pattern, path) for path in hits)
            why = "covers only what earlier patterns took" if taken else "is found in no parameter"
            raise UserError(
                f"{what}.{index}: the pattern {group.pattern!r} {why}; "
                f"the parameters are {few(hits)}"
            )
    return map_with_path(lambda path, _: groups[hits[path]].value, axes)  # type: ignore[index]


def _first_match(groups: Sequence[Group], path: str) -> int | None:
    return next((i for i, g in enumerate(groups) if re.search(g.pattern, path)), None)
