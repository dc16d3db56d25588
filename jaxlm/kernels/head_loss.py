"""The weighted sum of a head's losses, which is trained on, and the reported loss of every token.

    loss_sum, token = head_loss(hidden, model.head(), targets, weights, z_loss=1e-4)

Only `loss_sum` has a gradient, so a token's gradient is known in the forward pass, except for one
common factor. "chunked" computes the logits of some tokens at a time, and in the same pass

    d z = weight * d loss / d z,    d hidden = d z K^T,    d K += hidden^T d z

These are three products with the head; recomputing the logits in the backward pass would take four.
Memory for logits does not grow with the text, there is no one-hot, and a vocabulary that is split
over devices stays split. "reference" is `jaxlm.kernels.cross_entropy` of all tokens together.

Where fsdp splits the kernel K [D, V], "chunked" works in one of two ways:

    by tokens        each device gathers K, and has the logits of its own tokens; dK is summed over
                     fsdp into its parts
    by vocabulary    each device takes V / n columns of K, and gathers the hidden states of some
                     tokens at a time; d hidden is summed over fsdp into its parts, dK is whole

The first gathers D V elements and sums as many in float32; it holds K and dK whole. The second does
so with D N, for the N tokens of all n devices, and exchanges 2 D V / n to and from its parts of K
and dK. It is taken where N is at most `MOST_TOKENS` times V.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.kernels.cross_entropy import KERNEL_AXES, HeadParams, TokenLoss, cross_entropy, logits
from jaxlm.kernels.registry import Kernel
from jaxlm.mesh import (
    RULES,
    all_rows,
    columns_for_rows,
    fitting,
    num_parts,
    on_each_device,
    own_rows,
    part_index,
    rows_for_columns,
    sum_own_rows,
    sum_parts,
    sum_split,
)

CHUNK = 512  # tokens of a row whose logits "chunked" holds at a time
# For each entry of the vocabulary. With so many, splitting the vocabulary over two devices sends as
# much as gathering the kernel in bfloat16 and summing its gradient; over more it sends less.
MOST_TOKENS = 2 / 3
NEVER = -1e15  # a logit of probability 0, whose square is finite

head_loss_kernels = Kernel("head_loss")


class Static(NamedTuple):
    """The arguments that are constant at compile time."""

    label_smoothing: float
    z_loss: float
    softcap: float | None
    vocab_size: int
    length: str | None  # the logical axis of the tokens' length
    by_vocabulary: bool = False

    @property
    def vocab(self) -> str:
        """The logical axis of the logits' columns."""
        return "head_vocab" if self.by_vocabulary else "vocab"


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
    length = fitting(ROWS, hidden.shape[:2])[1]
    vocab_size = head.kernel.shape[-1]
    by_vocabulary = _splits_vocabulary(hidden.shape[:2], vocab_size)
    static = Static(label_smoothing, z_loss, head.softcap, vocab_size, length, by_vocabulary)
    head = head if by_vocabulary else head.gathered()
    bias = jnp.zeros(static.vocab_size) if head.bias is None else head.bias
    loss_sum, *token = _sum(static, hidden, head.kernel, bias, targets, weights)
    return loss_sum, jax.lax.stop_gradient(TokenLoss(*token))


def splits_vocabulary(shape: Sequence[int], vocab_size: int) -> bool:
    """Whether the loss splits the vocabulary over fsdp, for tokens [B, T] of all devices, where
    `impl` is auto.
    """
    return head_loss_kernels.pick() is _chunked and _splits_vocabulary(shape, vocab_size)


def _splits_vocabulary(shape: Sequence[int], vocab_size: int) -> bool:
    if num_parts("fsdp") == 1:
        return False
    axes = [axis for name in fitting(ROWS, shape) for axis in (name and RULES[name]) or ()]
    others = math.prod(num_parts(axis) for axis in axes if axis != "fsdp")
    return math.prod(shape) / others <= MOST_TOKENS * vocab_size / num_parts("tensor")


# -------------------------------------------------------------------------------- values, gradients

ROWS = ("batch", "head_length")


def _inputs(static: Static) -> list[tuple[str | None, ...]]:
    kernel = KERNEL_AXES if static.by_vocabulary else (None, "vocab")
    return [(*ROWS, None), kernel, ("vocab",), ROWS, ROWS]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(static: Static, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """(sum, loss, nll, correct) of (hidden, kernel, bias, targets, weights)."""
    token = on_each_device(partial(_values, static), _inputs(static), [ROWS] * 3)(*arrays)
    return ((token[0] * arrays[-1]).sum(), *token)


def _forward(static: Static, *arrays: jax.Array) -> tuple:
    outputs = [ROWS, ROWS, ROWS, (*ROWS, None), KERNEL_AXES, ("vocab",)]
    *token, d_hidden, d_kernel, d_bias = on_each_device(
        partial(_values_and_gradients, static), _inputs(static), outputs
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
    columns = Columns.of(static, kernel, bias)

    def one(_: None, chunk: tuple) -> tuple[None, tuple]:
        x, target, _ = chunk
        return None, _look(static, columns, columns.logits(_all(static, x)), target)[0]

    inputs = cut_tokens(hidden, _all(static, targets), _all(static, weights))
    _, token = jax.lax.scan(one, None, inputs)
    return tuple(_own(static, joined_tokens(x, targets.shape[1])) for x in token)


def _values_and_gradients(
    static: Static, hidden: Any, kernel: Any, bias: Any, targets: Any, weights: Any
) -> tuple:
    columns = Columns.of(static, kernel, bias)

    def one(total: tuple, chunk: tuple) -> tuple[tuple, tuple]:
        x, target, weight = chunk
        x = _all(static, x)
        z = columns.logits(x)
        token, (log_total, is_target) = _look(static, columns, z, target)
        d_z = jnp.exp(z - log_total[..., None]) * (1 + 2 * static.z_loss * log_total)[..., None]
        d_z -= jnp.where(is_target, 1 - static.label_smoothing, 0.0)
        d_z -= columns.real(static.label_smoothing / static.vocab_size)
        d_z *= weight[..., None]
        if static.softcap is not None:
            d_z *= 1 - jnp.square(z / static.softcap)
        narrow = d_z.astype(x.dtype)
        d_x = jnp.einsum("BTV,DV->BTD", narrow, columns.kernel, preferred_element_type=jnp.float32)
        d_kernel = jnp.einsum("BTD,BTV->DV", x, narrow, preferred_element_type=jnp.float32)
        total = (total[0] + d_kernel, total[1] + d_z.sum((0, 1)))
        d_x = sum_own_rows(d_x) if static.by_vocabulary else d_x
        return total, (*token, d_x.astype(x.dtype))

    zeros = (jnp.zeros(x.shape, jnp.float32) for x in (columns.kernel, columns.bias))
    inputs = cut_tokens(hidden, _all(static, targets), _all(static, weights))
    sums, parts = jax.lax.scan(one, tuple(zeros), inputs)
    *token, d_hidden = (joined_tokens(x, targets.shape[1]) for x in parts)
    token = [_own(static, x) for x in token]
    d_kernel, d_bias = _summed(static, kernel, *sums)
    return (*token, sum_parts(d_hidden, "vocab"), d_kernel, d_bias)


def _summed(
    static: Static, kernel: jax.Array, d_kernel: jax.Array, d_bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of the kernel's and the bias's parts, summed over all tokens."""
    tokens = [axis for axis in (ROWS[0], static.length) if axis]
    if not static.by_vocabulary:
        d_kernel = sum_split(d_kernel, tokens, dim=0, by="embed")
        for axis in tokens:
            d_bias = sum_parts(d_bias, axis)
        return d_kernel, d_bias
    for axis in tokens:
        d_kernel = sum_parts(d_kernel, axis, without=("fsdp",))
        d_bias = sum_parts(d_bias, axis, without=("fsdp",))
    d_kernel = rows_for_columns(d_kernel.astype(kernel.dtype))[:, : kernel.shape[1]]
    return d_kernel, all_rows(d_bias)[: kernel.shape[1]]


def _all(static: Static, x: jax.Array) -> jax.Array:
    """[B, ...] -> [n B, ...], of all devices along fsdp, where the vocabulary is split there."""
    return all_rows(x) if static.by_vocabulary else x


def _own(static: Static, x: jax.Array) -> jax.Array:
    """This device's part of the rows of `_all`."""
    return own_rows(x) if static.by_vocabulary else x


class Columns(NamedTuple):
    """The part of the vocabulary whose logits a device has."""

    kernel: jax.Array  # [D, V']
    bias: jax.Array  # [V']
    softcap: float | None
    first: jax.Array | int  # the number of its first column in the vocabulary
    num_real: jax.Array | None  # its columns of the vocabulary; those after them fill up. None: all

    @classmethod
    def of(cls, static: Static, kernel: jax.Array, bias: jax.Array) -> Columns:
        """This device's columns. kernel: [D, V / tensor], or its rows [D / n, V / tensor], of which
        each device along fsdp takes V' columns; bias: [V / tensor].
        """
        size = kernel.shape[1]
        first = part_index("vocab") * size
        if not static.by_vocabulary:
            return cls(kernel, bias, static.softcap, first, None)
        parts, part = num_parts("fsdp"), part_index("embed")
        own = -(-size // parts)
        fill = parts * own - size
        kernel = columns_for_rows(jnp.pad(kernel, ((0, 0), (0, fill))))
        bias = jax.lax.dynamic_slice_in_dim(jnp.pad(bias, (0, fill)), part * own, own)
        num_real = jnp.clip(size - part * own, 0, own) if fill else None
        return cls(kernel, bias, static.softcap, first + part * own, num_real)

    def logits(self, x: jax.Array) -> jax.Array:
        """Float32 logits [B, T, V'] of hidden states [B, T, D]."""
        return self.real(logits(x, HeadParams(self.kernel, self.bias, self.softcap)), NEVER)

    def real(self, value: Any, other: Any = 0.0) -> Any:
        """The value [..., V'] in real columns, `other` in those that fill up."""
        if self.num_real is None:
            return value
        return jnp.where(jnp.arange(self.kernel.shape[1]) < self.num_real, value, other)


def _look(static: Static, columns: Columns, z: jax.Array, target: jax.Array) -> tuple[tuple, tuple]:
    """(loss, nll, correct) of tokens with logits [B, T, V'], and the residuals of the gradient."""
    index = jax.lax.broadcasted_iota(jnp.int32, z.shape, 2) + columns.first
    # A column that fills up may have the number of another device's.
    is_target = columns.real(index == target[..., None], False)
    top = sum_parts(jax.lax.stop_gradient(z).max(-1), static.vocab, by=jax.lax.pmax)
    total = sum_parts(jnp.exp(z - top[..., None]).sum(-1), static.vocab)
    log_total = top + jnp.log(total)
    z_target = sum_parts(jnp.where(is_target, z, 0.0).sum(-1), static.vocab)
    nll = log_total - z_target
    loss = nll + static.z_loss * jnp.square(log_total)
    if static.label_smoothing:
        mean = sum_parts(columns.real(z).sum(-1), static.vocab) / static.vocab_size
        loss += static.label_smoothing * (z_target - mean)
    # The argmax (the first of equals) as a float32 minimum over indices, which XLA fuses with the
    # sums into one pass over z. float32 represents every index below 2^24.
    first = jnp.where(z == top[..., None], index.astype(jnp.float32), jnp.inf).min(-1)
    best = sum_parts(first, static.vocab, by=jax.lax.pmin)
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
