"""Rates by depth: a smaller learning rate for lower layers, and layers that are trained later.

    optimizer:
      layer_decay: 0.9                        # a layer learns at 0.9 of the rate of the one above
      unfreeze: {every_epochs: 1}             # from the top: the heads, then a layer an epoch more
      unfreeze: {groups: [{pattern: "^embed", step: 2000}]}       # or where and when you say

With L layers, layer l = 1 .. L has the multiplier decay^(L + 1 - l); the embeddings have
decay^(L + 1); what is above the layers, such as heads and the final norm, has 1 (Clark et al. 2020,
arXiv:2003.10555; Bao et al. 2021, arXiv:2106.08254). ULMFiT's rule, a rate divided by 2.6 for each
layer, is a decay of 1/2.6 (Howard and Ruder 2018, arXiv:1801.06146, section 3.2). An encoder and a
decoder count their own layers.

Gradual unfreezing (section 3.3 there): a parameter does not change, to the bit, before the step at
which it is unfrozen, and has no part in the norm that gradients are clipped by. Its moments follow
the gradient from the first step, so that its first update is as large as any other. The step
follows from the config alone, so a run that resumes ends in the same weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlm.core.config import REQUIRED, Config, UserError, field
from jaxlm.core.errors import few, shown
from jaxlm.core.tree import flatten, map_with_path
from jaxlm.optim.param_groups import LOOKUPS

STACK = re.compile(r"(?:(.*)/)?layers(?:_(\d+))?/")  # the layers of a stack, from a number on
INPUT = re.compile(r"(^|/)(?!un)\w*embed(ding)?(_norm)?(/|$)")  # what is below all layers


@dataclass(frozen=True, kw_only=True)
class Start(Config):
    """The step at which parameters whose path contains a match of the pattern begin to change."""

    pattern: str = field(REQUIRED, "a regular expression searched in the parameter's path")
    step: int = field(REQUIRED, "the first step that changes them", ge=0)

    def validate(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(
                f"pattern: {shown(self.pattern)} is not a regular expression ({error}); fix it"
            ) from None


@dataclass(frozen=True, kw_only=True)
class Unfreeze(Config):
    """The steps at which parameters begin to change: from the top down, or as groups say."""

    every_steps: int | None = field(None, "steps until the next layers are trained as well", ge=1)
    every_epochs: float | None = field(None, "the same in passes over the training rows", gt=0)
    layers: int = field(1, "layers that are unfrozen together", ge=1)
    groups: tuple[Start, ...] = field(
        (), "own groups, the first match counts; what none matches is trained from the beginning"
    )

    def validate(self) -> None:
        given = [self.every_steps is not None, self.every_epochs is not None, bool(self.groups)]
        if sum(given) != 1:
            raise UserError("every_steps, every_epochs, groups: set exactly one of the three")

    def in_steps(self, epoch: float) -> Unfreeze:
        """The same in steps, where an epoch has this many."""
        if self.every_epochs is None:
            return self
        steps = max(1, round(self.every_epochs * epoch))
        return self.replace(every_steps=steps, every_epochs=None)


@dataclass(frozen=True)
class Depth:
    """The depth of a parameter, counted from the top: 0 is above all layers, 1 the last one; of a
    stack an array [L, 1, ...]. lowest: the number of layers in the stack, or the largest one.
    """

    from_top: Any
    is_input: bool
    lowest: int


def depths(shapes: Mapping[str, Any], axes: Mapping[str, Any]) -> dict[str, Depth]:
    """{path: depth} of a model's parameters, from nested dicts of their shapes and logical axes.

    Give it all of them: where some are frozen, the depth of the others is the same.
    """
    flat, names = flatten(shapes), flatten(axes)
    found: dict[str, tuple[str, int, int]] = {}  # stack, first layer, layers
    total: dict[str, int] = {}
    for path, leaf in flat.items():
        match = STACK.match(path)
        if match and names[path][:1] == ("layers",):
            stack, first = match[1] or "", int(match[2] or 0)
            found[path] = stack, first, leaf.shape[0]
            total[stack] = max(total.get(stack, 0), first + leaf.shape[0])
    most = max(total.values(), default=0)
    out = {}
    for path, leaf in flat.items():
        if path in found:
            stack, first, count = found[path]
            number = np.arange(first, first + count).reshape(-1, *(1,) * (len(leaf.shape) - 1))
            out[path] = Depth(total[stack] - number, False, total[stack])
        else:
            lookup = len(names[path]) > 1 and names[path][0] in LOOKUPS
            below = lookup or INPUT.search(path) is not None
            out[path] = Depth(most + 1 if below else 0, below, most)
    return out


def decays(decay: float, found: Mapping[str, Depth], axes: Mapping[str, Any]) -> dict[str, Any]:
    """The multiplier of each parameter's rate: a number, or [L, 1, ...] of stacked layers.

    found: `depths` of the whole model. axes: of the parameters that are trained.
    """
    power = lambda depth: (  # noqa: E731
        decay**depth if isinstance(depth, int) else (decay ** depth.astype(float)).astype("f4")
    )
    return map_with_path(lambda path, _: power(found[path].from_top), axes)


def starts(config: Unfreeze, found: Mapping[str, Depth], axes: Mapping[str, Any]) -> dict[str, Any]:
    """The first step that changes each parameter: a number, or [L, 1, ...] of stacked layers.

    found: `depths` of the whole model. axes: of the parameters that are trained. Raises `UserError`
    for a pattern that is found in none of these.
    """
    if config.groups:
        paths = [*flatten(axes)]
        for index, group in enumerate(config.groups):
            if not any(re.search(group.pattern, path) for path in paths):
                raise UserError(
                    f"optimizer.unfreeze.groups.{index}: the pattern {group.pattern!r} is found in "
                    f"no parameter that is trained; there are {few(paths)}"
                )
        return map_with_path(
            lambda path, _: next((g.step for g in config.groups if re.search(g.pattern, path)), 0),
            axes,
        )
    assert config.every_steps is not None, "resolved: Unfreeze.in_steps"
    every, size = config.every_steps, config.layers

    def start(path: str, _: Any) -> Any:
        depth = found[path]
        if depth.is_input:
            return every * (1 + math.ceil(depth.lowest / size))
        return every * -(-depth.from_top // size)

    return map_with_path(start, axes)
