"""Matmuls with weights in 8 bits, forward and backward: int8, or fp8 (Micikevicius et al. 2022).

    y = quantized_contract(x, kernel, ("embed", "mlp"), 1, "int8")     # 'BTD,DF->BTF'

Q(a) rounds a / s to the nearest integers (or fp8 numbers), with a scale s that makes the largest
value just fit. qwix rounds and multiplies:

    y  = s_x s_w Q(x) Q(w)                   s_x of each token, s_w of each output
    dx = s_g Q(g s_w) Q(w)^T                 s_g of each token
    dw = s_h Q(x)^T Q(g s_x)                 s_h of each output

The gradient treats rounding as the identity (straight-through: Bengio et al. 2013); the scale of a
contracted dim is multiplied into the other factor. fp8 is e4m3 for x and w, and e5m2, which has a
larger range, for gradients. The optimizer's weights stay float32. The backward pass quantizes x and
the weight again: neither rounded arrays nor a copy of the weight are saved.

Weights are quantized before the all-gather over fsdp, so the network carries 8 bits (with ZeRO-1
too, where they would not have to move). Experts are the exception: each device quantizes its own
tokens and its part of the width. Otherwise scales are those of the whole array, on any mesh. A
token's output does not depend on other tokens; `dw` does through s_h, so each micro-batch has its
own scales. Products are 32 bits until they are scaled: remat "minimal" and "dots" save these, and
these are summed over devices.
"""

from __future__ import annotations

import dataclasses
import importlib
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.core.config import UserError
from jaxlm.mesh import spec_of

Quantization = Literal["int8", "fp8"]

# {name: (dtype of activations and weights, dtype of gradients)}
TYPES: dict[str, tuple[Any, Any]] = {
    "int8": (jnp.int8, jnp.int8),
    "fp8": (jnp.float8_e4m3fn, jnp.float8_e5m2),
}


def load_qwix() -> Any:
    """The module qwix. Raises `UserError` if it is not installed."""
    try:
        return importlib.import_module("qwix")
    except ModuleNotFoundError as error:
        raise UserError(
            "model.quantization: needs the package qwix; install it: pip install 'jaxlm[quant]', "
            "or set it to null"
        ) from error


def quantized_contract(
    x: jax.Array,
    kernel: jax.Array,
    axes: tuple[str, ...],
    num_inputs: int,
    quantization: Quantization,
) -> jax.Array:
    """x [..., *inputs] and kernel [*inputs, *outputs] -> [..., *outputs], in x's dtype.

    `kernel` is the parameter as it is stored, float32 and perhaps split over fsdp; `axes` are the
    logical ones of its dims.
    """
    return _contract(Static(quantization, axes, num_inputs), x, kernel)


def quantized_grouped_matmul(
    x: jax.Array,  # [M, D], sorted by group
    kernels: jax.Array,  # [E, D, F]
    group_sizes: jax.Array,  # [E] int, of sum at most M
    quantization: Quantization,
) -> jax.Array:  # [M, F] in x's dtype
    """`jaxlm.kernels.grouped_matmul.grouped_matmul` in 8 bits."""
    return _grouped(quantization, x, kernels, group_sizes)


class Static(NamedTuple):
    """The values that are known when compiling."""

    quantization: Quantization
    axes: tuple[str, ...]
    num_inputs: int


def _quantize(x: jax.Array, dtype: Any, own: tuple[int, ...]) -> Any:
    """`x` with a scale, float32, for each index of the dims `own`."""
    return load_qwix().quantize(x.astype(jnp.float32), dtype, channelwise_axes=own)


# -------------------------------------------------------------------------------------- contraction


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contract(static: Static, x: jax.Array, kernel: jax.Array) -> jax.Array:
    rows, inputs, outputs = _dims(static, x, kernel)
    own, _ = TYPES[static.quantization]
    last = tuple(range(len(rows), x.ndim))
    x_q, kernel_q = _quantize(x, own, rows), _gather(_quantize(kernel, own, outputs), static.axes)
    y = load_qwix().dot_general(x_q, kernel_q, ((last, inputs), ((), ())))
    return y.astype(x.dtype)


def _contract_forward(static: Static, x: jax.Array, kernel: jax.Array) -> tuple:
    return _contract(static, x, kernel), (x, kernel)


def _contract_backward(static: Static, saved: tuple, gradient: jax.Array) -> tuple:
    x, kernel = saved
    rows, _, outputs = _dims(static, x, kernel)
    own, of_gradient = TYPES[static.quantization]
    dot_general = load_qwix().dot_general
    last = tuple(range(len(rows), gradient.ndim))
    x_q, kernel_q = _quantize(x, own, rows), _gather(_quantize(kernel, own, outputs), static.axes)

    scaled = gradient * kernel_q.scale.reshape(kernel.shape[static.num_inputs :])
    to_x = _quantize(scaled, of_gradient, rows)
    d_x = dot_general(to_x, kernel_q.qvalue, ((last, outputs), ((), ())))

    scaled = gradient * x_q.scale.reshape(*gradient.shape[: len(rows)], *(1,) * len(last))
    to_kernel = _quantize(scaled, of_gradient, last)
    d_kernel = dot_general(x_q.qvalue, to_kernel, ((rows, rows), ((), ())))
    if not jax.sharding.get_abstract_mesh().empty:
        d_kernel = jax.lax.with_sharding_constraint(d_kernel, spec_of(static.axes))
    return d_x.astype(x.dtype), d_kernel.astype(kernel.dtype)


_contract.defvjp(_contract_forward, _contract_backward)


def _dims(static: Static, x: jax.Array, kernel: jax.Array) -> tuple[tuple[int, ...], ...]:
    """The dims of x that are rows, and the dims of the kernel that are inputs and outputs."""
    rows = tuple(range(x.ndim - static.num_inputs))
    return rows, tuple(range(static.num_inputs)), tuple(range(static.num_inputs, kernel.ndim))


def _gather(kernel: Any, axes: tuple[str, ...]) -> Any:
    """A rounded kernel, gathered over fsdp."""
    if jax.sharding.get_abstract_mesh().empty:
        return kernel

    def one(x: jax.Array) -> jax.Array:
        split = [None if n == 1 else axis for n, axis in zip(x.shape, axes, strict=True)]
        x = jax.lax.with_sharding_constraint(
            x, spec_of(split)
        )  # else float32 would be all-gathered
        return jax.lax.with_sharding_constraint(x, spec_of(split, without=("fsdp",)))

    return dataclasses.replace(kernel, qvalue=one(kernel.qvalue), scale=one(kernel.scale))


# ------------------------------------------------------------------------------------------- groups


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped(
    quantization: Quantization, x: jax.Array, kernels: jax.Array, group_sizes: jax.Array
) -> jax.Array:
    own, _ = TYPES[quantization]
    x_q, kernels_q = _quantize(x, own, (0,)), _quantize(kernels, own, (0, 2))
    y = load_qwix().ragged_dot(x_q, kernels_q.qvalue, group_sizes.astype(jnp.int32))
    scale = _by_row(kernels_q.scale, group_sizes, len(x))
    # A kernel may leave any value after the groups, here and below.
    return jnp.where(scale > 0, y * scale, 0).astype(x.dtype)


def _grouped_forward(
    quantization: Quantization, x: jax.Array, kernels: jax.Array, group_sizes: jax.Array
) -> tuple:
    return _grouped(quantization, x, kernels, group_sizes), (x, kernels, group_sizes)


def _grouped_backward(quantization: Quantization, saved: tuple, gradient: jax.Array) -> tuple:
    x, kernels, group_sizes = saved
    own, of_gradient = TYPES[quantization]
    qwix, sizes = load_qwix(), group_sizes.astype(jnp.int32)
    x_q, kernels_q = _quantize(x, own, (0,)), _quantize(kernels, own, (0, 2))
    scale = _by_row(kernels_q.scale, group_sizes, len(x))

    to_x = _quantize(gradient * scale, of_gradient, (0,))
    d_x = qwix.ragged_dot(to_x, kernels_q.qvalue.swapaxes(1, 2), sizes)
    d_x = jnp.where(scale[:, :1] > 0, d_x, 0)

    to_kernels = _quantize(jnp.where(scale > 0, gradient, 0) * x_q.scale, of_gradient, (1,))
    rows = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
    d_kernels = qwix.ragged_dot_general(x_q.qvalue, to_kernels, sizes, rows)
    return d_x.astype(x.dtype), d_kernels.astype(kernels.dtype), None


_grouped.defvjp(_grouped_forward, _grouped_backward)


def _by_row(scale: jax.Array, group_sizes: jax.Array, num_rows: int) -> jax.Array:
    """Scales [E, 1, F] for each row [M, F]; 0 for rows without a group."""
    ends = jnp.cumsum(group_sizes)
    group = jnp.searchsorted(ends, jnp.arange(num_rows), side="right", method="compare_all")
    return jnp.take(scale[:, 0], group, axis=0, mode="fill", fill_value=0)
