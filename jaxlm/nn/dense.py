"""A linear map over named dims: y = x @ kernel + bias.

The kernel keeps its dims apart, so that sharding rules can name each of them:

    query = Dense({"embed": D}, {"heads": N, "head_dim": H}, rngs=rngs)     # 'BTD,DNH->BTNH'
    out = Dense({"heads": N, "head_dim": H}, {"embed": D}, rngs=rngs)       # 'BTNH,NHD->BTD'
    up = Dense({"embed": D}, {"mlp": F}, bias=True, rngs=rngs)              # 'BTD,DF->BTF'

Initialisation: normal with a standard deviation of `std`, or of 1/sqrt(fan in) where `std` is None,
so that outputs have the inputs' variance; both times `scale`. A map whose output is added to the
residual stream takes scale = 1/sqrt(2L), which keeps the stream's variance independent of depth
(GPT-2, Radford et al. 2019, section 2.3). Biases start at 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.kernels.contract import contract
from jaxlm.kernels.quantized import Quantization, quantized_contract
from jaxlm.mesh import gather_weight, is_split, shard
from jaxlm.nn.stored_kernel import Stored, restored, stored_value


class Adaptable(nnx.Module):
    """A module whose kernel an adapter may change (`jaxlm.adapters`).

    The kernel's first dims are those of stacked layers and of experts, then come `num_inputs` dims
    that the input is contracted with. An adapter is a module with `__call__(x, y, kernel)`: the
    output for the input x, where y is that of the kernel alone; and with `kernel(kernel)`: the
    kernel that gives that output.
    """

    kernel: Any  # an nnx.Param, or a StoredKernel
    num_inputs: int
    adapter: Any = None
    has_input: ClassVar[bool] = (
        False  # whether the adapter is given the input, not the kernel alone
    )

    def adapted_kernel(self) -> Any:
        """The kernel with its adapter, for code that multiplies with the kernel itself."""
        if self.adapter is None:
            return self.kernel
        axes = self.kernel.get_metadata()["axes"]
        return nnx.Param(self.adapter.kernel(self.kernel.get_value()), axes=axes)

    def matmul_flops(self) -> float:
        """Forward FLOPs: 2 for each weight (of all layers, where it is stacked)."""
        extra = 0.0 if self.adapter is None else self.adapter.matmul_flops()
        return 2.0 * math.prod(self.kernel.shape) + extra


class Dense(Adaptable):
    """Contracts the last dims of x with the kernel's first ones."""

    has_input: ClassVar[bool] = True

    def __init__(
        self,
        inputs: Mapping[str, int],  # logical axis -> size, in order
        outputs: Mapping[str, int],
        *,
        bias: bool = False,
        std: float | None = None,
        scale: float = 1.0,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_inputs = len(inputs)
        self.dtype = jnp.dtype(dtype)
        self.quantization: Quantization | None = None  # a model sets it
        shape = (*inputs.values(), *outputs.values())
        if std is None:
            std = 1 / math.sqrt(math.prod(inputs.values()))
        # The same draws as of `shape`, but a matrix of them compiles in a quarter of the time.
        matrix = (math.prod(inputs.values()), math.prod(outputs.values()))
        kernel = std * scale * jax.random.normal(rngs.params(), matrix, jnp.float32)
        self.kernel = nnx.Param(kernel.reshape(shape), axes=(*inputs, *outputs))
        zeros = jnp.zeros(tuple(outputs.values()), jnp.float32)
        self.bias = nnx.Param(zeros, axes=tuple(outputs)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:  # [..., *inputs] -> [..., *outputs]
        """The map in the compute dtype. `x` ends in the dims that the kernel begins with."""
        axes, low = tuple(self.kernel.get_metadata()["axes"]), self.quantization

        def product(x: jax.Array, stored: Any) -> jax.Array:
            kernel = restored(stored)
            if low is not None:
                return quantized_contract(x, kernel, axes, self.num_inputs, low)
            return contract(x, gather_weight(kernel, axes, self.dtype), self.num_inputs)

        x, stored = x.astype(self.dtype), stored_value(self.kernel)
        if (is_split("fsdp") and low is None) or isinstance(stored, Stored):
            # The backward pass gathers or restores the kernel again: saved, those of all layers
            # would be whole.
            product = jax.checkpoint(product, prevent_cse=False)
        y = product(x, stored)
        if self.adapter is not None:
            y = self.adapter(x, y, restored(stored))
        if self.bias is not None:
            y = y + weight(self.bias, self.dtype)
        return y


def weight(param: Any, dtype: Any) -> jax.Array:
    """A parameter as its matmul wants it: in the compute dtype, gathered over fsdp."""
    return gather_weight(param.get_value(), param.get_metadata()["axes"], dtype)


def whole(param: Any, dtype: Any) -> jax.Array:
    """A parameter as a loop over time wants it: in the compute dtype, whole on every device.

    A collective at each of T small steps would cost more than the products that it saves.
    """
    return shard(param.get_value().astype(dtype), *(None,) * len(param.shape))
