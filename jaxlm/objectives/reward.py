"""A reward model: a number for each answer, from pairs (Bradley and Terry 1952; Ouyang et al. 2022,
arXiv:2203.02155).

    loss = -log sigmoid(r_chosen - r_rejected) + centering (r_chosen + r_rejected)^2

as a mean over pairs. r is what a scalar head gives of the hidden state of the answer's last token;
`centering` keeps rewards near 0 (Eisenstein et al. 2023, arXiv:2312.09244). Records are rated as
`jaxlm.objectives.rated` says.

    objective: {type: reward}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid

from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import RowSpec
from jaxlm.nn.dropout import split_key
from jaxlm.nn.heads.base import TaskHeadConfig
from jaxlm.nn.heads.scalar import Scalar
from jaxlm.objectives.base import LOSS, Loss, Transform
from jaxlm.objectives.base_pairs import (
    ACCURACY,
    CHOSEN,
    MARGIN,
    REJECTED,
    Scored,
    check_decoder,
    pair_sums,
    read,
    split_sides,
)
from jaxlm.objectives.rated import Rated
from jaxlm.objectives.segments import segment_sums
from jaxlm.objectives.with_head import HeadObjective
from jaxlm.tasks.preference import Preference

if TYPE_CHECKING:
    from jaxlm.core.types import Batch, Cache, ModelConfig, Output, Tokenizer
    from jaxlm.tasks.base import Task

KEYS = ("tokens", "segment_ids", "positions")


@dataclass(frozen=True, kw_only=True)
class Reward(HeadObjective):
    """Give a chosen answer a higher number than a rejected one."""

    displays: ClassVar[tuple[Measure, ...]] = (LOSS, ACCURACY, MARGIN, CHOSEN, REJECTED)

    head: TaskHeadConfig = field(
        lambda: Scalar(bias=False, dropout=0.0), "what gives the number, beside the model"
    )
    centering: float = field(0.0, "weight of the squared sum of a pair's rewards", ge=0)

    needs = (*KEYS, "loss_weights", "sides")

    def validate(self) -> None:
        if not isinstance(self.head, Scalar) or self.head.pool != "last" or self.head.dense:
            raise UserError(
                "head: a reward is a number for the last token of each answer; use {type: scalar, "
                "pool: last}"
            )

    def check_model(self, model: ModelConfig) -> None:
        check_decoder(self, model)

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        return lambda row, index: {k: v[:-1] for k, v in split_sides(row).items() if k in KEYS}

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        # `data.seq_len` tokens, as of the other objectives: the row's last one is their target
        return RowSpec({key: rows[key] for key in KEYS}, T=rows.sizes["T"] - 1)

    def asking(self, task: Task) -> Task:
        return Rated(pairs=task) if isinstance(task, Preference) else task

    def loss(self, model: Any, batch: Batch, *, key: jax.Array | None, cache: Cache | None) -> Loss:
        rewards, found, out = self._rewards(model, batch, key)
        even = rewards.shape[1] // 2 * 2
        chosen, rejected = rewards[:, 0:even:2], rewards[:, 1:even:2]
        weight = found[:, 0:even:2] * found[:, 1:even:2]
        loss = reward_loss(chosen, rejected, centering=self.centering)
        loss_sum = jnp.where(weight > 0, loss, 0.0).sum()
        return pair_sums(loss_sum, Scored(loss, chosen, rejected), weight, out)

    def predict(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """rewards [B, T + 1] of the answers in each row, in order; 0 after them."""
        return {"rewards": self._rewards(model, batch, None)[0]}

    def _rewards(
        self, model: Any, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, Output]:
        """(the reward of each segment, 1 where there is one) [B, T + 1], and the model's output."""
        keys, segments = split_key(key, 2), batch["segment_ids"]
        out = read(model, batch, keys[0])
        scores = model.task_head.score(out.hidden.astype(jnp.float32), keys[1])[..., 0]  # [B, T]
        following = jnp.pad(segments[:, 1:], ((0, 0), (0, 1)))
        last = ((segments != following) & (segments > 0)).astype(jnp.float32)
        return segment_sums(scores * last, segments), segment_sums(last, segments), out


def reward_loss(chosen: jax.Array, rejected: jax.Array, *, centering: float = 0.0) -> jax.Array:
    """The loss of each pair of rewards, as the module's docstring gives it."""
    return -log_sigmoid(chosen - rejected) + centering * (chosen + rejected) ** 2
