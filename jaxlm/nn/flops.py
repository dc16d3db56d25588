"""FLOPs from the module tree: every module that multiplies says how often, nobody knows a family.

    matmul_flops(model)       # forward FLOPs a token: 2 for each weight that it meets

A module with `matmul_flops()` answers for itself and all below it; of stacked layers, whose
parameters have one more dim in front, it answers for all of them.
"""

from __future__ import annotations

from typing import Any

from flax import nnx


def matmul_flops(module: Any) -> float:
    """Forward FLOPs that each token costs in the linear maps of a module tree."""
    own = getattr(module, "matmul_flops", None)
    if own is not None:
        return own()
    children = (value for value in vars(module).values() if isinstance(value, nnx.Module))
    return sum(matmul_flops(child) for child in children)


def keys_met(length: int, window: int | None, causal: bool) -> float:
    """Keys that a query meets, on average over a row of `length` tokens."""
    reach = length if window is None else min(window, length)
    if causal:  # the first `reach` queries meet 1, 2, ..., reach keys
        return reach - reach * (reach - 1) / (2 * length)
    return min(2 * reach - 1, length)
