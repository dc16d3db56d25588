"""Objectives that learn from rewards of what the model writes: groups of completions, graded.

    train.batch_size 64, group_size 8    completions of a step, of 8 prompts
    num_iterations 2                     each rollout serves two steps in a row

An example is `jaxlm/objectives/grpo.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxlm.core.config import UserError, field
from jaxlm.core.sampling import Sampling
from jaxlm.objectives.on_policy import PACKS_WRITTEN, OnPolicy
from jaxlm.objectives.rewards import TASK, Rewards, short_name

if TYPE_CHECKING:
    from flax import nnx

    from jaxlm.core.types import LanguageModel, ModelConfig
    from jaxlm.tasks.base import Record, Task


@dataclass(frozen=True, kw_only=True)
class Graded(OnPolicy, abstract=True):
    """The base of objectives that learn from rewards: `rewards` of a row, [B, their number]."""

    instead_of_packing: ClassVar[str] = PACKS_WRITTEN

    group_size: int = field(8, "completions of each prompt", ge=1)
    temperature: float = field(1.0, "logits are divided by it, in the draws and in the loss", gt=0)
    top_k: int | None = field(None, "draw from the k likeliest tokens; null: from all", ge=1)
    top_p: float | None = field(
        None, "draw from the likeliest tokens of this total probability; null: from all", gt=0, le=1
    )
    packing: Literal["whole"] | None = field(
        None, "whole: fit several completions into a row of the train step; null: one a row"
    )
    num_iterations: int = field(1, "optimizer steps on the same completions", ge=1)
    rewards: tuple[str, ...] = field(
        (TASK,), "what grades a completion: task, or functions as package.module:function"
    )

    def validate(self) -> None:
        if not self.rewards:
            raise UserError("rewards: empty; name task, or a function as package.module:function")

    @property
    def why_answers(self) -> str | None:
        grades = TASK in self.rewards
        return "has the reward task, which compares with the answer of a record" if grades else None

    @property
    def factors(self) -> tuple[float, ...]:
        """The factor of each reward in their sum."""
        return (1.0,) * len(self.rewards)

    @property
    def reward_names(self) -> tuple[str, ...]:
        """The metric of each reward, where there are several."""
        if len(self.rewards) == 1:
            return ()
        short = [short_name(name) for name in self.rewards]
        names = short if len({*short}) == len(short) else self.rewards
        return tuple(f"reward/{name}" for name in names)

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )

    @property
    def completions_per_prompt(self) -> int:
        return self.group_size

    @property
    def steps_per_rollout(self) -> int:
        return self.num_iterations

    @property
    def packs(self) -> bool:
        return self.packing is not None

    def judge(self, task: Task) -> Callable[[Record, str], Mapping[str, Any]]:
        grade = Rewards(task, self.rewards)
        return lambda record, text: {"rewards": grade(record, text)}

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
        return model.build(model.vocab_size, rngs=rngs)
