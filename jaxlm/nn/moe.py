"""A mixture of experts: each token passes k of E feed-forward networks, which a router chooses.

    s = softmax(x W) or sigmoid(x W)                                 [E]
    chosen = the k of largest s + b, of the best groups alone         b: `choice_bias`
    y = scaling * sum_{e chosen} s_e / sum_chosen s * ffn_e(x) + shared(x)

Shazeer et al. 2017, Switch (arXiv:2101.03961), Mixtral (arXiv:2401.04088); sigmoid scores, groups,
shared experts as in DeepSeek-V3 (arXiv:2412.19437).

    ffn = MoEConfig(num_experts=8, experts_per_token=2).build(256, rngs=rngs)
    y, found = ffn(x, segment_ids)    # found: losses by row [B], and the load of each expert

Tokens are sorted by expert on the device that has them (`jaxlm.nn.experts`), and no
token waits for another: what a document becomes does not depend, not even in the last bit, on what
else is in its row or batch. A `capacity_factor` gives that up for a bound on each expert's work.

Two things keep the experts equally busy. The balance loss of a row of n tokens, in which expert e
is among the k of largest score c_e times and has the mean share P_e of the scores, is
E sum_e c_e / (k n) P_e, 1 where all are equal (arXiv:2412.19437, equations 17 to 20). The choice
bias falls by a fixed step after each training step in which its expert had more than the mean load,
and else rises (arXiv:2408.15664); no gradient moves it. The z-loss mean(logsumexp(x W)^2) keeps the
router's logits small (arXiv:2202.08906).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import UserError, field
from jaxlm.core.types import LOAD, FFNConfig
from jaxlm.mesh import on_each_device
from jaxlm.nn.dense import Dense
from jaxlm.nn.experts import ExpertKernels, run_experts
from jaxlm.nn.ffn import ACTIVATIONS, Activation, DenseConfig, is_gated
from jaxlm.nn.flops import matmul_flops


@dataclass(frozen=True, kw_only=True)
class MoEConfig(FFNConfig):
    """A mixture of experts."""

    num_experts: int = field(8, "experts to choose from", ge=1)
    experts_per_token: int = field(2, "experts that each token passes", ge=1)
    intermediate_size: int | None = field(
        None, "width of an expert; null: that of a dense ffn", ge=1
    )
    activation: Activation = field("swiglu", "names ending in glu are gated")
    shared_size: int | None = field(
        None, "width of the shared experts, which every token passes; null: none", ge=1
    )
    scores: Literal["softmax", "sigmoid"] = field("softmax", "what the router's logits become")
    normalize: bool = field(True, "the weights of a token's experts sum to 1 (times scaling)")
    scaling: float = field(1.0, "factor on the sum of a token's experts", gt=0)
    num_groups: int = field(1, "groups of experts; their score is the sum of their best two", ge=1)
    groups_per_token: int = field(1, "groups that a token's experts may be of", ge=1)
    choice_bias: float | None = field(
        None, "step of a bias that balances the choice; 0: as it is; null: no bias", ge=0
    )
    capacity_factor: float | None = field(
        None,
        "an expert takes this times the mean load of each row, earlier tokens first, except for "
        "text that is generated; null: all",
        gt=0,
    )
    balance_loss: float = field(0.01, "coefficient of the loss that balances the experts", ge=0)
    router_z_loss: float = field(0.001, "coefficient of the router's squared normaliser", ge=0)

    def validate(self) -> None:
        experts, k, groups = self.num_experts, self.experts_per_token, self.num_groups
        if experts % groups:
            raise UserError(
                f"num_groups: {groups} does not divide num_experts {experts}; choose a divisor"
            )
        if self.groups_per_token > groups:
            raise UserError(
                f"groups_per_token: {self.groups_per_token} of {groups} groups; lower it"
            )
        reach = experts // groups * self.groups_per_token
        if k > reach:
            raise UserError(f"experts_per_token: {k}, but a token has {reach} in reach; lower it")

    @property
    def routes(self) -> bool:
        return bool(self.balance_loss or self.router_z_loss or self.choice_bias)

    def width(self, hidden_size: int) -> int:
        """The width of an expert in a model of `hidden_size`."""
        return self._dense(self.intermediate_size).width(hidden_size)

    def _dense(self, size: int | None) -> DenseConfig:
        return DenseConfig(intermediate_size=size, activation=self.activation)

    @property
    def tensors(self) -> tuple[str, ...]:
        shared = self._dense(self.shared_size).tensors if self.shared_size else ()
        return tuple(dict.fromkeys((*shared, "ffn_out")))

    def capacity(self, length: int) -> int | None:
        """Tokens that an expert takes of a row of `length` tokens."""
        if self.capacity_factor is None:
            return None
        mean = length * self.experts_per_token / self.num_experts
        return math.ceil(self.capacity_factor * mean)

    def build(self, dim: int, **options: Any) -> MoE:
        return MoE(self, dim, **options)


class MoE(nnx.Module):
    """`out_scale` multiplies the standard deviation of the last kernels."""

    def __init__(
        self,
        config: MoEConfig,
        dim: int,
        *,
        std: float | None = None,
        out_scale: float = 1.0,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        c = self.config = config
        self.dtype = jnp.dtype(dtype)
        # Every token meets the scores of all experts, wherever those are.
        scores, embed, mlp = {"act_experts": c.num_experts}, {"embed": dim}, {"mlp": c.width(dim)}
        # Choices hang on the last bits of scores: float32 whatever the rest is.
        self.router = Dense(embed, scores, std=std, dtype=jnp.float32, rngs=rngs)
        zeros = jnp.zeros((c.num_experts,), jnp.float32)
        biased = c.choice_bias is not None
        self.choice_bias = nnx.Param(zeros, axes=tuple(scores)) if biased else None
        kernels = partial(ExpertKernels, c.num_experts, std=std, rngs=rngs)
        self.gate = kernels(embed, mlp) if is_gated(c.activation) else None
        self.up = kernels(embed, mlp)
        self.down = kernels(mlp, embed, scale=out_scale)
        options: dict[str, Any] = {"std": std, "out_scale": out_scale, "dtype": dtype, "rngs": rngs}
        self.shared = c._dense(c.shared_size).build(dim, **options) if c.shared_size else None

    @jax.named_scope("experts")
    def __call__(
        self, x: jax.Array, segment_ids: jax.Array, *, dropless: bool = False
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """The output [B, T, D]; losses [B], and under `LOAD` the tokens that chose each expert.

        `dropless` leaves the capacity out: of a text that is written in parts, it would hang on
        how many there are.
        """
        c, real = self.config, segment_ids > 0
        with jax.default_matmul_precision("float32"), jax.named_scope("router"):
            logits = self.router(x)  # [B, T, E]
        scores = jax.nn.softmax(logits) if c.scores == "softmax" else jax.nn.sigmoid(logits)
        bias = None if self.choice_bias is None else self.choice_bias.get_value()
        chosen = choose(scores, bias, c)  # [B, T, k]
        weights = jnp.take_along_axis(scores, chosen, axis=-1)
        if c.normalize:
            weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
        picked = _marks(chosen, c.num_experts) & real[..., None]  # [B, T, E]
        capacity = None if dropless else c.capacity(x.shape[1])
        taken = real[..., None] & _fits(picked, chosen, capacity)
        function, _ = ACTIVATIONS[c.activation]
        weights = c.scaling * weights
        y = run_experts(function, self._parts, x.astype(self.dtype), chosen, weights, taken)
        if self.shared is not None:
            y = y + self.shared(x, segment_ids)[0]
        load = picked.sum((0, 1), dtype=jnp.int32)
        return y, {**self._losses(logits, scores, chosen, real), LOAD: load}

    @jax.named_scope("experts")
    def adjust(self, load: jax.Array) -> None:
        """Moves the choice bias by the load [..., E] of a step: less for what had too much."""
        rate = self.config.choice_bias
        if self.choice_bias is not None and rate is not None:
            busy = load.astype(jnp.float32)
            step = rate * jnp.sign(busy.mean(-1, keepdims=True) - busy)
            self.choice_bias.set_value(self.choice_bias.get_value() + step)

    def matmul_flops(self) -> float:
        """A token meets the router, k of the E experts, and what is shared."""
        experts = 2.0 * sum(math.prod(part.kernel.shape) for part in self._parts)
        shared = 0.0 if self.shared is None else matmul_flops(self.shared)
        active = self.config.experts_per_token / self.config.num_experts
        return self.router.matmul_flops() + active * experts + shared

    @property
    def _parts(self) -> list[ExpertKernels]:
        return [part for part in (self.gate, self.up, self.down) if part is not None]

    def _losses(
        self, logits: jax.Array, scores: jax.Array, chosen: jax.Array, real: jax.Array
    ) -> dict[str, jax.Array]:
        c, losses = self.config, {}
        if c.balance_loss:
            if self.choice_bias is not None or c.num_groups > 1:
                chosen = choose(scores, None, c.replace(num_groups=1, groups_per_token=1))
            losses["balance_loss"] = c.balance_loss * balance(scores, chosen, real)
        if c.router_z_loss:
            squares = jnp.square(jax.nn.logsumexp(logits, axis=-1))
            losses["router_z_loss"] = c.router_z_loss * _mean(squares, real)
        return losses


def choose(scores: jax.Array, bias: jax.Array | None, config: MoEConfig) -> jax.Array:
    """The experts [B, T, k] of scores [B, T, E] and a bias [E]; nothing here has a gradient."""
    rows = ("batch", "length", None)
    bias = jnp.zeros(scores.shape[-1:]) if bias is None else bias
    # each device by itself: the partitioner would gather all tokens for a top-k
    run = on_each_device(partial(_choose, config), [rows, (None,)], rows)
    return run(*jax.lax.stop_gradient((scores, bias)))


def _choose(config: MoEConfig, scores: jax.Array, bias: jax.Array) -> jax.Array:
    c, scores = config, scores + bias
    if c.groups_per_token < c.num_groups:
        grouped = scores.reshape(*scores.shape[:-1], c.num_groups, -1)
        best = jax.lax.top_k(grouped, min(2, grouped.shape[-1]))[0].sum(-1)  # [B, T, groups]
        within = _marks(jax.lax.top_k(best, c.groups_per_token)[1], c.num_groups)
        scores = jnp.where(within[..., None], grouped, -jnp.inf).reshape(scores.shape)
    return jax.lax.top_k(scores, c.experts_per_token)[1]


def balance(scores: jax.Array, best: jax.Array, real: jax.Array) -> jax.Array:
    """The imbalance of the experts' use in each row [B]: E sum_e f_e P_e.

    `best` [B, T, k] are each token's best experts by the scores alone, as in the paper.
    """
    num_experts, k = scores.shape[-1], best.shape[-1]
    counts = _mean(_marks(best, num_experts).astype(jnp.float32), real) / k  # [B, E]
    shares = _mean(scores / (scores.sum(-1, keepdims=True) + 1e-20), real)
    return num_experts * (counts * shares).sum(-1)


def _mean(x: jax.Array, real: jax.Array) -> jax.Array:
    """The mean over a row's real tokens, [B, T, ...] -> [B, ...]; 0 for a row of none."""
    weights = real.reshape(*real.shape, *(1,) * (x.ndim - 2))
    return jnp.where(weights, x, 0).sum(1) / jnp.maximum(weights.sum(1), 1)


def _marks(chosen: jax.Array, size: int) -> jax.Array:
    """[..., k] of `size` -> [..., size] bool: whether it is among them."""
    return (chosen[..., None] == jnp.arange(size)).any(-2)


def _fits(picked: jax.Array, chosen: jax.Array, capacity: int | None) -> jax.Array:
    """Whether each choice [B, T, k] is among the first that its expert has in the row."""
    if capacity is None:
        return jnp.ones(chosen.shape, bool)
    earlier = jnp.cumsum(picked, axis=1, dtype=jnp.int32) - picked  # [B, T, E]
    return jnp.take_along_axis(earlier, chosen, axis=-1) < capacity
