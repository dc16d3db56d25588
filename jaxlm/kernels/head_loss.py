"""The weighted sum of a head's losses, which is trained on, and the reported loss of every token.

    loss_sum, token = head_loss(hidden, model.head(), targets, weights, z_loss=1e-4)

Only `loss_sum` has a gradient, so a token's gradient is known in the forward pass, except for one
common factor. "chunked" computes the logits of some tokens at a time, and in the same pass

    d z = weight * d loss / d z,    d hidden = d z K^T,    d K += hidden^T d z

These are three products with the head; recomputing the logits in the backward pass would take four.
Memory for logits does not grow with the text, there is no one-hot, and a vocabulary that is split
over devices stays split. "reference" is `jaxlm.kernels.cross_entropy` of all tokens together.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.kernels.cross_entropy import HeadParams, TokenLoss, cross_entropy, logits
from jaxlm.kernels.registry import Kernel
from jaxlm.mesh import fitting, on_each_device, part_index, sum_parts, sum_split

CHUNK = 512  # tokens of a row whose logits "chunked" holds at a time

head_loss_kernels = Kernel("head_loss")


class Static(NamedTuple):
    """The arguments that are constant at compile time."""

    label_smoothing: float
    z_loss: float
    softcap: float | None
    vocab_size: int
    length: str | None  # the logical axis of the tokens' length


@jax.named_scope("head")
def head_loss(
    hidden: jax.Array,  # [B, T, D]
    head: HeadParams,
    targets: jax.Array,  # [B, T] int, in [0, V) wherever the weight is not 0
    weights: jax.Array,  # [B, T]; no gradient
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    impl: str = "auto",
) -> tuple[jax.Array, TokenLoss]:
    """(sum of weight * loss over all tokens, `TokenLoss` of each token without a gradient)."""
    function = head_loss_kernels.pick(impl)
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    return function(hidden, head, targets, jax.lax.stop_gradient(weights), **options)


def token_loss(hidden: jax.Array, head: HeadParams, targets: jax.Array) -> TokenLoss:
    """`TokenLoss` [B, T] without a gradient; the logits of some tokens are in memory at a time."""
    weights = jnp.ones(targets.shape, jnp.float32)
    return head_loss(hidden, head, targets, weights, impl="chunked")[1]


@head_loss_kernels.register("reference")
def _reference(
    hidden: jax.Array, head: HeadParams, targets: jax.Array, weights: jax.Array, **options: Any
) -> tuple[jax.Array, TokenLoss]:
    token = cross_entropy(hidden, head, targets, **options)
    return (token.loss * weights).sum(), jax.lax.stop_gradient(token)


@head_loss_kernels.register("chunked", auto_on=("tpu", "gpu"))
def _chunked(
    hidden: jax.Array,
    head: HeadParams,
    targets: jax.Array,
    weights: jax.Array,
    *,
    label_smoothing: float,
    z_loss: float,
) -> tuple[jax.Array, TokenLoss]:
    static = Static(
        label_smoothing,
        z_loss,
        head.softcap,
        head.kernel.shape[-1],
        fitting(ROWS, hidden.shape[:2])[1],
    )
    bias = jnp.zeros(static.vocab_size) if head.bias is None else head.bias
    loss_sum, *token = _sum(static, hidden, head.kernel, bias, targets, weights)
    return loss_sum, jax.lax.stop_gradient(TokenLoss(*token))


# -------------------------------------------------------------------------------- values, gradients

ROWS = ("batch", "head_length")
INPUTS = [(*ROWS, None), (None, "vocab"), ("vocab",), ROWS, ROWS]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(static: Static, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """(sum, loss, nll, correct) of (hidden, kernel, bias, targets, weights)."""
    token = on_each_device(partial(_values, static), INPUTS, [ROWS] * 3)(*arrays)
    return ((token[0] * arrays[-1]).sum(), *token)


def _forward(static: Static, *arrays: jax.Array) -> tuple:
    outputs = [ROWS, ROWS, ROWS, (*ROWS, None), ("embed", "vocab"), ("vocab",)]
    *token, d_hidden, d_kernel, d_bias = on_each_device(
        partial(_values_and_gradients, static), INPUTS, outputs
    )(*arrays)
    saved = d_hidden, d_kernel.astype(arrays[1].dtype), d_bias.astype(arrays[2].dtype)
    return ((token[0] * arrays[-1]).sum(), *token), saved


def _backward(static: Static, saved: tuple, gradient: tuple) -> tuple:
    factor = gradient[0]
    return (*((factor * x).astype(x.dtype) for x in saved), None, None)


_sum.defvjp(_forward, _backward)


def _values(
    static: Static, hidden: Any, kernel: Any, bias: Any, targets: Any, weights: Any
) -> tuple:
    """The values of this device's tokens, over its part of the vocabulary."""

    def one(_: None, chunk: tuple) -> tuple[None, tuple]:
        x, target, _ = chunk
        return None, _look(static, _logits(static, x, kernel, bias), target)[0]

    _, token = jax.lax.scan(one, None, cut_tokens(hidden, targets, weights))
    return tuple(joined_tokens(x, targets.shape[1]) for x in token)


def _values_and_gradients(
    static: Static, hidden: Any, kernel: Any, bias: Any, targets: Any, weights: Any
) -> tuple:
    def one(total: tuple, chunk: tuple) -> tuple[tuple, tuple]:
        x, target, weight = chunk
        z = _logits(static, x, kernel, bias)
        token, (log_total, is_target) = _look(static, z, target)
        d_z = jnp.exp(z - log_total[..., None]) * (1 + 2 * static.z_loss * log_total)[..., None]
        d_z -= jnp.where(is_target, 1 - static.label_smoothing, 0.0)
        d_z = (d_z - static.label_smoothing / static.vocab_size) * weight[..., None]
        if static.softcap is not None:
            d_z *= 1 - jnp.square(z / static.softcap)
        narrow = d_z.astype(x.dtype)
        d_x = jnp.einsum("BTV,DV->BTD", narrow, kernel, preferred_element_type=jnp.float32)
        d_kernel = jnp.einsum("BTD,BTV->DV", x, narrow, preferred_element_type=jnp.float32)
        total = (total[0] + d_kernel, total[1] + d_z.sum((0, 1)))
        return total, (*token, d_x.astype(x.dtype))

    zeros = jnp.zeros(kernel.shape, jnp.float32), jnp.zeros(bias.shape, jnp.float32)
    sums, parts = jax.lax.scan(one, zeros, cut_tokens(hidden, targets, weights))
    *token, d_hidden = (joined_tokens(x, targets.shape[1]) for x in parts)
    tokens = [axis for axis in (ROWS[0], static.length) if axis]
    d_kernel, d_bias = sums[0], sums[1]
    d_kernel = sum_split(d_kernel, tokens, dim=0, by="embed")
    for axis in tokens:
        d_bias = sum_parts(d_bias, axis)
    return (*token, sum_parts(d_hidden, "vocab"), d_kernel, d_bias)


def _logits(static: Static, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return logits(x, HeadParams(kernel, bias, static.softcap))


def _look(static: Static, z: jax.Array, target: jax.Array) -> tuple[tuple, tuple]:
    """(loss, nll, correct) of tokens with logits [B, T, V'], and the residuals of the gradient."""
    index = jax.lax.broadcasted_iota(jnp.int32, z.shape, 2) + part_index("vocab") * z.shape[2]
    is_target = index == target[..., None]
    top = sum_parts(jax.lax.stop_gradient(z).max(-1), "vocab", by=jax.lax.pmax)
    total = sum_parts(jnp.exp(z - top[..., None]).sum(-1), "vocab")
    log_total = top + jnp.log(total)
    z_target = sum_parts(jnp.where(is_target, z, 0.0).sum(-1), "vocab")
    nll = log_total - z_target
    loss = nll + static.z_loss * jnp.square(log_total)
    if static.label_smoothing:
        mean = sum_parts(z.sum(-1), "vocab") / static.vocab_size
        loss += static.label_smoothing * (z_target - mean)
    # The argmax (the first of equals) as a float32 minimum over indices, which XLA fuses with the
    # sums into one pass over z. float32 represents every index below 2^24.
    first = jnp.where(z == top[..., None], index.astype(jnp.float32), jnp.inf).min(-1)
    best = sum_parts(first, "vocab", by=jax.lax.pmin)
    return (loss, nll, (best == target).astype(jnp.float32)), (log_total, is_target)


def cut_tokens(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """[B, T, ...] -> [chunks, B, CHUNK, ...], filled up with zeros."""
    length = arrays[0].shape[1]
    size = min(CHUNK, length)
    count = -(-length // size)

    def one(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, count * size - length), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    return tuple(map(one, arrays))


def joined_tokens(x: jax.Array, length: int) -> jax.Array:
    """The chunks of `cut_tokens` in a row again."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
