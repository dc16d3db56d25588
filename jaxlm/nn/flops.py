"""FLOPs from the module tree: every module that multiplies says how often, nobody knows a family.

    matmul_flops(model)       # forward FLOPs a token: 2 for each weight that it meets

A step with frozen parameters computes the gradients of all activations, and those of the trained
kernels alone. With F the forward FLOPs, and F' those of `only_trained(model)`, it costs

    F (forward) + F (gradients of the activations) + F' (gradients of the kernels)

which is 3 F where all are trained.

A module with `matmul_flops()` answers for itself and all below it; of stacked layers, whose
parameters have one more dim in front, it answers for all of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flax import nnx
from jax import ShapeDtypeStruct

from jaxlm.core.tree import map_with_path
from jaxlm.nn.dense import Adaptable, Dense
from jaxlm.nn.stored_kernel import plain_path

TIED = "embed/table"  # the kernel of a head that has none of its own


def matmul_flops(module: Any) -> float:
    """Forward FLOPs that each token costs in the linear maps of a module tree."""
    own = getattr(module, "matmul_flops", None)
    if own is not None:
        return own()
    children = (value for value in vars(module).values() if isinstance(value, nnx.Module))
    return sum(matmul_flops(child) for child in children)


def only_trained(module: Any, frozen: Collection[str]) -> Any:
    """An abstract module whose frozen kernels have no elements, so that they cost no FLOPs.

    frozen: the "/"-joined paths of parameters without a gradient. A kernel that is changed by an
    adapter before it multiplies (`Adaptable.adapted_kernel`) has one: that of the changed kernel.
    """
    graphdef, state = nnx.split(module)
    nodes = {"/".join(map(str, path)): node for path, node in nnx.iter_graph(module)}

    def left(path: str, leaf: Any) -> Any:
        owner: Any = nodes.get(plain_path(path).rpartition("/")[0])
        if isinstance(owner, Adaptable) and not isinstance(owner, Dense) and owner.adapter:
            return leaf
        none = ShapeDtypeStruct((0, *leaf.shape[1:]), leaf.dtype)
        return none if path in frozen else leaf

    shapes = nnx.to_pure_dict(state)
    found = nnx.merge(graphdef, map_with_path(left, shapes))
    head = getattr(found, "unembed", None)
    if head is not None and (TIED if head.kernel is None else "unembed/kernel") in frozen:
        head.size = 0
    return found


def keys_met(length: int, window: int | None, is_causal: bool) -> float:
    """Keys that a query meets, on average over a row of `length` tokens."""
    reach = length if window is None else min(window, length)
    if is_causal:  # the first `reach` queries meet 1, 2, ..., reach keys
        return reach - reach * (reach - 1) / (2 * length)
    return min(2 * reach - 1, length)
