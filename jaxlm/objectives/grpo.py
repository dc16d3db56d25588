"""GRPO: descend on completions that the model writes, by how much better than their group each is.

    objective: {type: grpo, group_size: 8, max_tokens: 32, rewards: [task]}
    train: {batch_size: 64}                      # completions of a step: 8 prompts

The losses are those of `jaxlm.objectives.policy_losses`, in four variants:

    dapo      mean over the tokens of all completions (the default, as in TRL)
    grpo      mean over completions of the mean over tokens: long ones count less a token
    dr_grpo   sum over tokens / (completions x max_tokens); rewards are not divided by their
              standard deviation
    gspo      as grpo, with one ratio for a whole completion

The old log-probabilities are those of the train step's own forward pass, not of the generator,
whose arithmetic differs (a cache, token by token): so the first ratio is exactly 1. Where a rollout
serves one step, they need no pass of their own. Dropout is off. On rows without a rollout, in an
evaluation, the loss is that of the records' own completions.

With `objective.packing` several completions, each with its prompt, share a row of the train step.

With `beta` above 0, beta times an estimate of the KL from a frozen reference is added to each
token's loss. The reference is the weights that the run starts from, or those of another run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.kernels.log_probs import log_probs
from jaxlm.nn.adapter_key import adapter_key
from jaxlm.objectives import policy_losses as losses
from jaxlm.objectives.base import LOSS, FrozenModel, Loss
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.graded import Graded
from jaxlm.objectives.on_policy import COMPLETION, WRITTEN
from jaxlm.objectives.prediction import ACCURACY

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache, LanguageModel, Output


FIGURES = (
    Measure("reward", better="higher", show="headline", brief="reward", format=".3f"),
    Measure("reward_std", label="standard deviation of rewards in a group"),
    Measure("equal_groups", label="groups of equal rewards", format="percent"),
    Measure("completion_tokens", label="tokens of a completion", format=".1f"),
    Measure("truncated", label="completions without an end", format="percent"),
    Measure("clipped", label="clipped ratios", format="percent"),
    Measure("entropy", label="entropy of a token", unit="nats"),
)


KL = Measure("kl", better="lower", label="KL from the reference", unit="nats")
FILLED = Measure("filled", better="higher", label="filled part of the rows", format="percent")
REFERENCE = "reference_log_probs"  # a key of a batch


@dataclass(frozen=True, kw_only=True)
class GRPO(Graded):
    """Raise the rewards of what the model writes, relative to its group."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, ACCURACY)

    variant: Literal["dapo", "grpo", "dr_grpo", "gspo"] = field(
        "dapo", "how tokens and completions are weighed"
    )
    group_size: int = field(8, "completions of each prompt", ge=2)
    reward_weights: tuple[float, ...] = field((), "factor of each reward; empty: 1 each")
    epsilon: float = field(0.2, "a ratio below 1 - epsilon is clipped", gt=0, lt=1)
    epsilon_high: float | None = field(
        None, "a ratio above 1 + epsilon_high is clipped; null: as epsilon", gt=0
    )
    mask_truncated: bool = field(False, "leave out completions that have no end")
    beta: float = field(0.0, "weight of the KL from the reference; 0: no reference", ge=0)
    reference: FrozenModel = field(FrozenModel, "the frozen model of the KL")

    def validate(self) -> None:
        super().validate()
        if self.reward_weights and len(self.reward_weights) != len(self.rewards):
            raise UserError(
                f"reward_weights: {len(self.reward_weights)} numbers for {len(self.rewards)} "
                "rewards; give one for each"
            )
        if self.reference.from_ is not None and not self.beta:
            raise UserError(
                "reference: beta is 0, so it has no part in the loss; set beta above 0, or remove "
                "reference"
            )

    def check_ends(self, eos_ids: Sequence[int]) -> None:
        if self.mask_truncated and not eos_ids:
            raise UserError(
                "objective.mask_truncated: the tokenizer has no id that ends a text, so each "
                "completion counts as truncated and none is trained; set sample.eos_ids, or "
                "mask_truncated to false"
            )

    @property
    def train_displays(self) -> tuple[Measure, ...]:
        each = (Measure(name, better="higher", format=".3f") for name in self.reward_names)
        more = ((KL,) if self.beta else ()) + ((FILLED,) if self.packs else ())
        return (*FIGURES, *each, *more)

    @property
    def references(self) -> Mapping[str, FrozenModel]:
        return {"reference": self.reference} if self.beta else {}

    @property
    def factors(self) -> tuple[float, ...]:
        return self.reward_weights or super().factors

    # ------------------------------------------------------------------------------ the rollout

    def rollout_spec(self, length: int) -> RowSpec:
        number = Entry((), "float32")
        entries = {
            **WRITTEN,
            "rewards": Entry((len(self.rewards),), "float32"),
            "advantages": Entry(("T",), "float32") if self.packs else number,
            **{name: number for name in ("reward_std", "completion_tokens")},
        }
        if self.num_iterations > 1:
            entries["old_log_probs"] = Entry(("T",), "float32")
        return RowSpec(entries, T=length)

    def rollout(self, batch: Batch) -> Mapping[str, jax.Array]:
        mask, count = batch["loss_weights"], len(batch["rewards"])
        found = losses.group_advantages(
            self._total(batch["rewards"]),
            self.group_size,
            scale=losses.VARIANTS[self.variant].scale,
        )
        out = {name: x for name, x in batch.items() if name != COMPLETION}
        whole = 1 - batch["truncated"]
        if self.packs:
            place = batch[COMPLETION]
            tokens = jax.ops.segment_sum(mask.ravel(), place.ravel(), num_segments=count)
            advantages, whole = found.advantages[place], whole[place]
        else:
            tokens, advantages, whole = mask.sum(-1), found.advantages, whole[:, None]
        out |= {"advantages": advantages, "reward_std": found.std, "completion_tokens": tokens}
        if self.mask_truncated:
            out["loss_weights"] = mask * whole
        return out

    def read_again(self, model: LanguageModel, batch: Batch) -> Mapping[str, jax.Array]:
        if self.num_iterations == 1:
            return {}
        return {"old_log_probs": self._read(model, batch)[0]}

    def _total(self, rewards: jax.Array) -> jax.Array:
        """[B, number of rewards] -> [B], weighed."""
        return (rewards * jnp.array(self.factors, jnp.float32)).sum(-1)

    # --------------------------------------------------------------------------------- the loss

    def loss_beside(
        self,
        model: LanguageModel,
        beside: Mapping[str, LanguageModel],
        batch: Batch,
        *,
        key: jax.Array | None,
        cache: Cache | None,
    ) -> Loss:
        if self.beta and "advantages" in batch:
            batch = {**batch, REFERENCE: self._read(beside["reference"], batch)[0]}
        return self.loss(model, batch, key=key, cache=cache)

    def loss(
        self, model: LanguageModel, batch: Batch, *, key: jax.Array | None, cache: Cache | None
    ) -> Loss:
        if "advantages" not in batch:
            return CausalLM().loss(model, batch, key=key, cache=cache)
        mask = batch["loss_weights"]
        log_p, entropy, out = self._read(model, batch)
        sums = losses.policy_sums(
            self.variant,
            log_p,
            batch.get("old_log_probs", log_p),
            batch["advantages"],
            mask,
            max_tokens=self.max_tokens,
            low=self.epsilon,
            high=self.epsilon_high or self.epsilon,
            segment_ids=batch["segment_ids"] if self.packs else None,
            reference=batch.get(REFERENCE),
            beta=self.beta,
        )
        tokens, weight, loss_sum = mask.sum(), sums.weight.sum(), sums.loss_sum
        metrics = {
            **self._of_rewards(batch),
            "clipped": (sums.clipped, tokens),
            "entropy": ((entropy * mask).sum(), tokens),
        }
        if self.packs:
            filled = (batch["segment_ids"] > 0).astype(jnp.float32)
            metrics[FILLED.name] = (filled.sum(), jnp.float32(filled.size))
        if self.beta:
            metrics[KL.name] = (sums.kl, tokens)
        for name, by_row in out.losses.items():
            metrics[name] = ((by_row * sums.weight).sum(), weight)
            loss_sum += metrics[name][0]
        return Loss(loss_sum, weight, metrics, cache, out.load)

    def _read(self, model: LanguageModel, batch: Batch) -> tuple[jax.Array, jax.Array, Output]:
        """(log p of the targets [B, T], entropy [B, T], the model's output), without dropout."""
        with adapter_key(None):
            out = model(
                batch["tokens"], positions=batch["positions"], segment_ids=batch["segment_ids"]
            )
        hidden = model.head_input(out.hidden)
        found = log_probs(hidden, model.head(), batch["targets"], temperature=self.temperature)
        return *found, out

    def _of_rewards(self, batch: Batch) -> dict[str, tuple[jax.Array, jax.Array]]:
        """The metrics that a rollout has itself; each completion counts as one."""
        rewards, count = batch["rewards"], jnp.float32(len(batch["rewards"]))
        values = {
            "reward": self._total(rewards),
            "reward_std": batch["reward_std"],
            "equal_groups": (batch["reward_std"] == 0).astype(jnp.float32),
            "completion_tokens": batch["completion_tokens"],
            "truncated": batch["truncated"],
        }
        values |= {name: rewards[:, i] for i, name in enumerate(self.reward_names)}
        return {name: (value.sum(), count) for name, value in values.items()}
