"""Losses of a policy that is trained on what it wrote itself, as functions of log-probabilities.

With r the reward of a completion, in a group of G completions of one prompt:

    A = (r - mean of the group) / (standard deviation of the group + 1e-4)

and with rho = exp(log p - log p_old), per token (or per sequence, see `policy_loss`):

    loss = -min(rho A, clip(rho, 1 - low, 1 + high) A)

GRPO: Shao et al. 2024, arXiv:2402.03300. DAPO: Yu et al. 2025, arXiv:2503.14476. Dr. GRPO: Liu et
al. 2025, arXiv:2503.20783. GSPO: Zheng et al. 2025, arXiv:2507.18071. Nothing is divided by the
size of a batch here: `policy_sums` gives a sum and its weight.

A row [T] is one completion, or, where `segment_ids` are given, each of its segments is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.objectives.segments import segment_sums

SMALLEST_STD = 1e-4  # is added to the standard deviation that a reward is divided by


class Advantages(NamedTuple):
    """Per completion, [B] float32."""

    advantages: jax.Array
    std: jax.Array  # standard deviation of its group's rewards, over G - 1; 0 where all are equal


def group_advantages(rewards: jax.Array, group_size: int, *, scale: bool = True) -> Advantages:
    """Advantages of rewards [B], of which each `group_size` in a row are one group.

    scale: divide by the standard deviation of the group.
    """
    groups = rewards.reshape(-1, group_size)
    equal = (groups == groups[:, :1]).all(axis=1, keepdims=True)
    # the mean of equal numbers may differ from them by rounding
    centred = jnp.where(equal, 0.0, groups - groups.mean(axis=1, keepdims=True))
    std = jnp.sqrt(jnp.square(centred).sum(axis=1, keepdims=True) / max(group_size - 1, 1))
    found = centred / (std + SMALLEST_STD) if scale else centred
    return Advantages(found.reshape(-1), jnp.broadcast_to(std, groups.shape).reshape(-1))


def policy_loss(
    log_probs: jax.Array,  # [B, T]
    old_log_probs: jax.Array,  # [B, T]; no gradient
    advantages: jax.Array,  # [B], or of each token [B, T]
    mask: jax.Array,  # [B, T]: 1 at tokens of the completion
    *,
    low: float = 0.2,
    high: float = 0.2,
    by_sequence: bool = False,
    segment_ids: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(loss, whether it is clipped) of each token, [B, T] float32.

    by_sequence: rho is that of the whole completion, exp(mean of log p - log p_old), at all tokens.
    """
    log_ratio = jnp.where(mask > 0, log_probs - jax.lax.stop_gradient(old_log_probs), 0.0)
    if by_sequence:
        size = jnp.maximum(of_completions(mask, segment_ids), 1.0)
        mean = of_completions(log_ratio, segment_ids) / size
        log_ratio = jnp.broadcast_to(mean, mask.shape)
    ratio = jnp.exp(log_ratio)
    a = advantages if advantages.ndim == mask.ndim else advantages[:, None]
    loss = -jnp.minimum(ratio * a, jnp.clip(ratio, 1 - low, 1 + high) * a)
    clipped = ((ratio < 1 - low) & (a < 0)) | ((ratio > 1 + high) & (a > 0))
    return loss, clipped.astype(jnp.float32)


def kl_k3(log_probs: jax.Array, reference: jax.Array) -> jax.Array:
    """An estimate of KL(policy | reference) from tokens of the policy: exp(d) - d - 1, with
    d = log p_reference - log p. It is >= 0 and has no bias (Schulman 2020).
    """
    d = jax.lax.stop_gradient(reference) - log_probs
    return jnp.exp(d) - d - 1


def of_completions(values: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
    """[B, 1], or [B, T] with segments: the sum of values [B, T] over each token's completion."""
    if segment_ids is None:
        return values.sum(-1, keepdims=True)
    sums = segment_sums(values, segment_ids)
    return jnp.take_along_axis(sums, jnp.maximum(segment_ids - 1, 0), axis=1)


class Weighed(NamedTuple):
    """The loss of a batch is the sum of scale x loss / the sum of weight, over its tokens, [B, T]
    each.
    """

    scale: jax.Array
    weight: jax.Array


def mean_of_sequences(mask: jax.Array, share: jax.Array, max_tokens: int) -> Weighed:
    """The mean over completions of the mean over their tokens."""
    return Weighed(share, share)


def mean_of_tokens(mask: jax.Array, share: jax.Array, max_tokens: int) -> Weighed:
    """The mean over the tokens of all completions."""
    return Weighed(mask, mask)


def mean_of_room(mask: jax.Array, share: jax.Array, max_tokens: int) -> Weighed:
    """The sum over the tokens, divided by those that all completions might have."""
    return Weighed(mask, max_tokens * share)


class Variant(NamedTuple):
    """The differences of the variants. A completion without a token in the mask has no weight."""

    # mask, 1 / (tokens of the completion) at each token of the mask, max_tokens
    weigh: Callable[[jax.Array, jax.Array, int], Weighed]
    by_sequence: bool = False  # one ratio for a whole completion
    scale: bool = True  # rewards are divided by their standard deviation


VARIANTS = {
    "dapo": Variant(mean_of_tokens),
    "grpo": Variant(mean_of_sequences),
    "dr_grpo": Variant(mean_of_room, scale=False),
    "gspo": Variant(mean_of_sequences, by_sequence=True),
}


class Sums(NamedTuple):
    """Sums over a batch; `loss_sum / weight.sum()` is descended."""

    loss_sum: jax.Array  # scalar
    weight: jax.Array  # [B] of the rows
    clipped: jax.Array  # scalar: tokens of the mask whose ratio is clipped
    kl: jax.Array  # scalar: over tokens of the mask; 0 without a reference


def policy_sums(
    variant: str,
    log_probs: jax.Array,  # [B, T]
    old_log_probs: jax.Array,  # [B, T]; no gradient
    advantages: jax.Array,  # [B], or of each token [B, T]
    mask: jax.Array,  # [B, T]: 1 at tokens of the completions
    *,
    max_tokens: int,
    low: float = 0.2,
    high: float = 0.2,
    segment_ids: jax.Array | None = None,  # [B, T], where a row has several completions
    reference: jax.Array | None = None,  # [B, T] log-probabilities
    beta: float = 0.0,
) -> Sums:
    """The sums of a variant: those of `policy_loss`, and beta times the KL from a reference."""
    weigh, by_sequence, _ = VARIANTS[variant]
    loss, clipped = policy_loss(
        log_probs,
        old_log_probs,
        advantages,
        mask,
        low=low,
        high=high,
        by_sequence=by_sequence,
        segment_ids=segment_ids,
    )
    kl = jnp.zeros_like(loss)
    if reference is not None:
        # 0 outside of the mask, where a probability may be 0
        kl = kl_k3(*(jnp.where(mask > 0, x, 0.0) for x in (log_probs, reference)))
        loss += beta * kl
    share = mask / jnp.maximum(of_completions(mask, segment_ids), 1.0)
    scale, weight = weigh(mask, share, max_tokens)
    sums = (x.sum() for x in (scale * loss, clipped * mask, kl * mask))
    loss_sum, num_clipped, kl_sum = sums
    return Sums(loss_sum, weight.sum(-1), num_clipped, kl_sum)
