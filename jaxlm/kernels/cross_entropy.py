"""The loss of a language model's head, per token, from hidden states.

For logits z = softcap(hidden @ kernel + bias) and target t, with L = logsumexp(z):

    nll  = L - z_t
    loss = (1 - s) nll + s (L - mean(z)) + c L**2      s: label smoothing, c: z-loss

(smoothing as in Szegedy et al. 2016, z-loss as in PaLM, Chowdhery et al. 2022, section 5). Nothing
is reduced over tokens: the objective weights and sums, and the division comes last.

    losses = cross_entropy(hidden, model.head(), targets, z_loss=1e-4)
    loss_sum = (losses.loss * weights).sum()

The target's logit is taken by comparing with an iota, which fuses into the reductions forward and
backward: no gather, no scatter, no one-hot in memory, and a vocabulary split over devices stays
split.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.kernels.registry import Kernel
from jaxlm.mesh import gather_weight

cross_entropy_kernels = Kernel("cross_entropy")


KERNEL_AXES = ("embed", "vocab")


class HeadParams(NamedTuple):
    """The parameters that turn hidden states into logits."""

    kernel: jax.Array  # [D, V], compute dtype; split as its parameter is until it is `gathered`
    bias: jax.Array | None = None  # [V]
    softcap: float | None = None  # z -> softcap * tanh(z / softcap)
    tied: bool = False  # the kernel is the transposed table of the embedding

    def gathered(self) -> HeadParams:
        """With the kernel gathered over fsdp, for code that multiplies with it.

        A tied one is gathered as the table, which a lookup may need as well.
        """
        kernel, dtype = self.kernel, self.kernel.dtype
        if self.tied:
            kernel = gather_weight(kernel.T, KERNEL_AXES[::-1], dtype).T
        else:
            kernel = gather_weight(kernel, KERNEL_AXES, dtype)
        return self._replace(kernel=kernel)


class TokenLoss(NamedTuple):
    """Per token, float32."""

    loss: jax.Array  # [B, T] with smoothing and z-loss: what is trained on
    nll: jax.Array  # [B, T] -log p(target): what is reported
    correct: jax.Array  # [B, T] 1 where the target is the argmax


@jax.named_scope("head")
def logits(hidden: jax.Array, head: HeadParams) -> jax.Array:
    """Float32 logits [..., V] of hidden states [..., D]; the matmul accumulates in float32.

    The kernel is `gathered`.
    """
    z = jax.lax.dot_general(
        hidden,
        head.kernel,
        (((hidden.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    if head.bias is not None:
        z = z + head.bias.astype(jnp.float32)
    if head.softcap is not None:
        z = head.softcap * jnp.tanh(z / head.softcap)
    return z


@jax.named_scope("head")
def cross_entropy(
    hidden: jax.Array,  # [B, T, D]
    head: HeadParams,
    targets: jax.Array,  # [B, T] int, in [0, V) wherever the token counts
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    impl: str = "auto",
) -> TokenLoss:
    """Loss, negative log likelihood and correctness of every token.

    `impl`: "reference" works with a split vocabulary; "gather" needs fewer passes, for a CPU;
    "auto" chooses. Both materialize all logits; `jaxlm.kernels.head_loss` does not.
    """
    function = cross_entropy_kernels.pick(impl)
    head = head.gathered()
    return function(hidden, head, targets, label_smoothing=label_smoothing, z_loss=z_loss)


@cross_entropy_kernels.register("gather", auto_on=("cpu",))
def _gather(
    hidden: jax.Array,
    head: HeadParams,
    targets: jax.Array,
    *,
    label_smoothing: float,
    z_loss: float,
) -> TokenLoss:
    """Reads the target's logit by index: the fewest passes over the logits where memory is slow.

    A CPU spends as long on each pass over [B, T, V] as on a matmul. A target that ties with the
    largest logit counts as correct.
    """
    flat = logits(hidden.reshape(-1, hidden.shape[-1]), head)  # [B * T, V]: a plain matrix product
    out = _token_loss(flat, targets.reshape(-1), label_smoothing, z_loss)
    return TokenLoss(*(x.reshape(targets.shape) for x in out))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _token_loss(
    z: jax.Array, targets: jax.Array, label_smoothing: float, z_loss: float
) -> TokenLoss:
    return _token_loss_forward(z, targets, label_smoothing, z_loss)[0]


def _token_loss_forward(
    z: jax.Array, targets: jax.Array, label_smoothing: float, z_loss: float
) -> tuple[TokenLoss, tuple]:
    z_target = jnp.take_along_axis(z, targets[..., None], axis=-1)[..., 0]
    lse = jax.nn.logsumexp(z, axis=-1)
    nll = lse - z_target
    loss = nll + z_loss * jnp.square(lse)
    if label_smoothing:
        loss += label_smoothing * (z_target - jnp.mean(z, axis=-1))
    correct = (z_target >= jnp.max(z, axis=-1)).astype(jnp.float32)
    return TokenLoss(loss, nll, correct), (z, targets, lse)


def _token_loss_backward(
    label_smoothing: float, z_loss: float, saved: tuple, gradient: TokenLoss
) -> tuple[jax.Array, None]:
    """a softmax(z) - b onehot(target) - c, in one pass over the logits."""
    z, targets, lse = saved
    a = gradient.loss * (1 + 2 * z_loss * lse) + gradient.nll
    b = gradient.loss * (1 - label_smoothing) + gradient.nll
    c = gradient.loss * (label_smoothing / z.shape[-1])
    index = jax.lax.broadcasted_iota(jnp.int32, z.shape, z.ndim - 1)
    softmax = jnp.exp(z - lse[..., None])
    onehot = jnp.where(index == targets[..., None], b[..., None], 0.0)
    return a[..., None] * softmax - onehot - c[..., None], None


_token_loss.defvjp(_token_loss_forward, _token_loss_backward)


@cross_entropy_kernels.register("reference")
def _reference(
    hidden: jax.Array,
    head: HeadParams,
    targets: jax.Array,
    *,
    label_smoothing: float,
    z_loss: float,
) -> TokenLoss:
    z = logits(hidden, head)  # [B, T, V]
    index = jax.lax.broadcasted_iota(jnp.int32, z.shape, z.ndim - 1)
    target = targets[..., None].astype(jnp.int32)
    lse = jax.nn.logsumexp(z, axis=-1)
    z_target = jnp.sum(jnp.where(index == target, z, 0.0), axis=-1)
    nll = lse - z_target
    loss = nll
    if label_smoothing:
        loss = (1 - label_smoothing) * nll + label_smoothing * (lse - jnp.mean(z, axis=-1))
    if z_loss:
        loss = loss + z_loss * jnp.square(lse)
    # argmax == target, as a plain sum: nothing larger, and nothing equal before it
    z, best = jax.lax.stop_gradient((z, z_target))
    ahead = (z > best[..., None]) | ((z == best[..., None]) & (index < target))
    correct = (jnp.sum(ahead, axis=-1) == 0).astype(jnp.float32)
    return TokenLoss(loss, nll, correct)
