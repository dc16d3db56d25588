"""The contraction of a linear layer: the last dims of x with the first dims of a kernel.

    contract(x, kernel, 1)      # 'BTD,DNH->BTNH'
    contract(x, kernel, 2)      # 'BTNH,NHD->BTD'

"reference" is one `dot_general` over the dims as they are, so that each keeps its sharding.
"matrix" reshapes to a plain matrix product: on CPUs, XLA transposes the operands of other
contractions one element at a time, which took a quarter of a training step.
"""

from __future__ import annotations

import math

import jax

from jaxlm.kernels.registry import Kernel

contract_kernels = Kernel("contract")


def contract(x: jax.Array, kernel: jax.Array, num_inputs: int, *, impl: str = "auto") -> jax.Array:
    """x [..., *inputs] and kernel [*inputs, *outputs] -> [..., *outputs], in x's dtype."""
    return contract_kernels.pick(impl)(x, kernel, num_inputs)


@contract_kernels.register("reference", auto_on=("tpu", "gpu"))
def _reference(x: jax.Array, kernel: jax.Array, num_inputs: int) -> jax.Array:
    last = tuple(range(x.ndim - num_inputs, x.ndim))
    return jax.lax.dot_general(x, kernel, ((last, tuple(range(num_inputs))), ((), ())))


@contract_kernels.register("matrix", auto_on=("cpu",))
def _matrix(x: jax.Array, kernel: jax.Array, num_inputs: int) -> jax.Array:
    rows, outputs = x.shape[: x.ndim - num_inputs], kernel.shape[num_inputs:]
    size = math.prod(kernel.shape[:num_inputs])
    y = x.reshape(-1, size) @ kernel.reshape(size, -1)
    return y.reshape(*rows, *outputs)
