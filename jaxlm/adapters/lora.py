"""LoRA (Hu et al. 2021, arXiv:2106.09685): a low-rank change of kernels that stay frozen.

    y = x W + s (x A) B        s = alpha / rank        A [in, rank], B [rank, out]

    adapter: {type: lora, rank: 8, alpha: 16, targets: [query, value]}

A is drawn from U(-1/sqrt(in), 1/sqrt(in)), the Kaiming-uniform rule with a = sqrt(5), and B starts
at 0, so a run starts from its base. Kernels keep their dims apart: for one of [D, N, H], A is
[D, rank] and B [rank, N, H]. Stacked layers and experts have an A and a B each. Kernels that a loop
over time or sorted experts multiply with are changed first: W + s A B.

`rank` 0 adds nothing: the model is its base to the bit, and only new heads are trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.adapters.base import Adapter, check_patterns, no_match
from jaxlm.core.config import field
from jaxlm.core.tree import flatten, unflatten
from jaxlm.kernels.contract import contract
from jaxlm.mesh import gather_weight
from jaxlm.nn.dense import Adaptable
from jaxlm.nn.heads.base import is_of_head

ALL = "all-linear"
A, B = "lora_a", "lora_b"
INSIDE = "adapter"  # the attribute of `Adaptable`


@dataclass(frozen=True, kw_only=True)
class LoRA(Adapter):
    """Train a low-rank change of chosen kernels (arXiv:2106.09685)."""

    rank: int = field(8, "the rank of each kernel's change; 0: none", ge=0)
    alpha: float = field(16.0, "the change is scaled by alpha / rank", gt=0)
    targets: tuple[str, ...] = field(
        (ALL,),
        "modules that are adapted: the last parts of their paths, or regular expressions for them; "
        "all-linear: every one but the output embedding",
    )
    train: tuple[str, ...] = field(
        (), "regular expressions: parameters that are trained in full as well; new heads always are"
    )

    def validate(self) -> None:
        check_patterns("targets", self.targets)
        check_patterns("train", self.train)

    def apply(self, model: Any, *, rngs: nnx.Rngs) -> None:
        found = {
            "/".join(map(str, path)): node
            for path, node in nnx.iter_graph(model)
            if isinstance(node, Adaptable)
        }
        found = {path: node for path, node in found.items() if not is_of_head(path)}
        for target in self.targets:
            if not any(_matches(target, path) for path in found):
                raise no_match("adapter.targets", target, sorted(found))
        for path, node in sorted(found.items()):
            if self.rank and any(_matches(target, path) for target in self.targets):
                node.adapter = LowRank(node, self.rank, self.alpha / self.rank, rngs=rngs)

    def trains(self, path: str) -> bool:
        own = path.rpartition("/")[2] in (A, B)
        return own or any(re.search(pattern, path) for pattern in self.train)

    def check(self, paths: Sequence[str]) -> None:
        for pattern in self.train:
            if not any(re.search(pattern, path) for path in paths):
                raise no_match("adapter.train", pattern, paths)

    def merge(self, params: dict[str, Any]) -> dict[str, Any]:
        flat = flatten(params)
        for where in _changed(flat):
            a, b = (flat.pop(f"{where}/{INSIDE}/{name}") for name in (A, B))
            kernel = f"{where}/kernel"
            flat[kernel] = flat[kernel] + change(a, b, flat[kernel].ndim, self.alpha / a.shape[-1])
        return unflatten(flat)


class LowRank(nnx.Module):
    """The A and B of one kernel, or of the kernels of stacked layers and experts."""

    def __init__(self, of: Adaptable, rank: int, scale: float, *, rngs: nnx.Rngs) -> None:
        shape, axes = of.kernel.shape, of.kernel.get_metadata()["axes"]
        stacked = len(shape) - len(axes)  # by `jaxlm.nn.stack`, which adds no axis
        experts = int(axes[0] == "experts")
        first = stacked + experts
        last = first + of.num_inputs
        inputs, outputs = shape[first:last], shape[last:]
        bound = 1 / math.sqrt(math.prod(inputs))
        drawn = jax.random.uniform(
            rngs.params(), (*shape[:first], *inputs, rank), jnp.float32, -bound, bound
        )
        zeros = jnp.zeros((*shape[:first], rank, *outputs), jnp.float32)
        own = axes[:experts]
        self.scale, self.num_inputs = scale, of.num_inputs
        self.lora_a = nnx.Param(drawn, axes=(*own, *axes[experts : last - stacked], "rank"))
        self.lora_b = nnx.Param(zeros, axes=(*own, "rank", *axes[last - stacked :]))

    def __call__(self, x: jax.Array, y: jax.Array, kernel: jax.Array) -> jax.Array:
        """y [..., *outputs] with the change for x [..., *inputs], both in the compute dtype."""
        a, b = (
            gather_weight(p.get_value(), p.get_metadata()["axes"], x.dtype)
            for p in (self.lora_a, self.lora_b)
        )
        return y + self.scale * contract(contract(x, a, self.num_inputs), b, 1)

    def kernel(self, kernel: jax.Array) -> jax.Array:
        """W + s A B, float32."""
        a, b = self.lora_a.get_value(), self.lora_b.get_value()
        return kernel + change(a, b, kernel.ndim, self.scale)

    def matmul_flops(self) -> float:
        return 2.0 * (math.prod(self.lora_a.shape) + math.prod(self.lora_b.shape))


def change(a: jax.Array, b: jax.Array, ndim: int, scale: float) -> jax.Array:
    """s A B for a kernel of `ndim` dims, float32; the dims of a stack come first in all three."""
    stack = a.ndim + b.ndim - 2 - ndim
    rows = a.reshape(*a.shape[:stack], -1, a.shape[-1])
    columns = b.reshape(*b.shape[:stack], b.shape[stack], -1)
    product = jnp.matmul(rows, columns, precision="highest")
    return scale * product.reshape(*a.shape[:-1], *b.shape[stack + 1 :])


def _matches(target: str, path: str) -> bool:
    """Whether a module is one of a target: its path, or the path's last parts, match in full."""
    return target == ALL or re.fullmatch(rf"(.*/)?(?:{target})", path) is not None


def _changed(flat: dict[str, Any]) -> list[str]:
    """The paths of the modules that have an A."""
    end = f"/{INSIDE}/{A}"
    return [path.removesuffix(end) for path in flat if path.endswith(end)]
