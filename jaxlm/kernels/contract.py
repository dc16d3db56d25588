"""The contraction of a linear layer: the last dims of x with the first dims of a kernel.

    contract(x, kernel, 1)      # 'BTD,DNH->BTNH'
    contract(x, kernel, 2)      # 'BTNH,NHD->BTD'

"reference" is one `dot_general` over the dims as they are, so that each keeps its sharding.
"matrix" reshapes to a plain matrix product, and its gradient is of two: on CPUs, XLA transposes the
operands of other contractions one element at a time, which took a quarter of a training step.
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
    y = _product(x.reshape(-1, size), kernel.reshape(size, -1))
    return y.reshape(*rows, *outputs)


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _product_backward(factors: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = factors
    return gradient @ kernel.T, kernel_gradient(x, gradient)


_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


def kernel_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """x^T gradient, [I, O], of x [rows, I] and the output's gradient [rows, O], on a CPU.

    The CPU's matmul forms a tall result at two thirds of the speed of a wide one (67 and 106
    GFLOP/s for 512 x 192), so where I is larger, the transposed result is formed. The barrier keeps
    XLA from turning the product around again.
    """
    if x.shape[1] <= gradient.shape[1]:
        return x.T @ gradient
    return jax.lax.optimization_barrier(gradient.T @ x).T
