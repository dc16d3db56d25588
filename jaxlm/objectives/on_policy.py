"""Objectives that learn from texts that the model itself writes for the prompts of records.

A step of such an objective has two parts. The learner (`jaxlm.generate.rollouts`) draws completions
of the batch's prompts from the current weights and grades them; `rollout` makes of them the batch
that the train step descends. Both are a function of the weights, the seed and the step alone, so a
run that was killed writes the same texts again.

    train.batch_size 64, group_size 8    completions of a step, of 8 prompts
    num_iterations 2                     each rollout serves two steps in a row

A rollout that serves several steps is part of the train state, and so of a checkpoint. An example
is `jaxlm/objectives/grpo.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.core.config import UserError, field, type_name
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.core.types import RowDataset
from jaxlm.objectives.base import Objective, Transform
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.rewards import TASK, Rewards

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from jaxlm.core.types import Batch, LanguageModel, ModelConfig, Tokenizer
    from jaxlm.tasks.base import Task

RECORD = "record"  # the key of a batch that has the number of each row's record

# What the learner gives `rollout`: completions after their prompts, as rows of text, with
# `loss_weights` 1 where a target is of the completion.
WRITTEN = {
    "tokens": Entry(("T",)),
    "targets": Entry(("T",)),
    "loss_weights": Entry(("T",), "float32"),
    "segment_ids": Entry(("T",)),
    "positions": Entry(("T",)),
    "truncated": Entry((), "float32"),  # 1 where no end-of-text was written
}


@dataclass(frozen=True, kw_only=True)
class OnPolicy(Objective, abstract=True):
    """The base of objectives that learn from what the model writes."""

    learner: ClassVar[str] = "jaxlm.generate.rollouts:RolloutLearner"
    on_policy: ClassVar[bool] = True
    uses = ("loss_weights",)

    group_size: int = field(8, "completions of each prompt", ge=1)
    max_tokens: int = field(128, "the most tokens of a completion", ge=1)
    temperature: float = field(1.0, "logits are divided by it, in the draws and in the loss", gt=0)
    top_k: int | None = field(None, "draw from the k likeliest tokens; null: from all", ge=1)
    top_p: float | None = field(
        None, "draw from the likeliest tokens of this total probability; null: from all", gt=0, le=1
    )
    num_iterations: int = field(1, "optimizer steps on the same completions", ge=1)
    rewards: tuple[str, ...] = field(
        (TASK,), "what grades a completion: task, or functions as package.module:function"
    )

    def validate(self) -> None:
        if not self.rewards:
            raise UserError("rewards: empty; name task, or a function as package.module:function")

    def check_ends(self, eos_ids: Sequence[int]) -> None:
        """Raises `UserError` where it cannot learn from completions that end with these ids."""

    # ------------------------------------------------------------------------------ the rollout

    def graded(self, task: Task) -> Rewards:
        """What grades a completion. Raises `UserError` for a function that is not there."""
        return Rewards(task, self.rewards)

    @property
    def written_spec(self) -> Mapping[str, Entry]:
        """The keys of what `rollout` is given."""
        return {**WRITTEN, "rewards": Entry((len(self.rewards),), "float32")}

    def rollout_spec(self, length: int) -> RowSpec:
        """What is in a row of `rollout`, with `length` tokens."""
        raise NotImplementedError

    def rollout(self, batch: Batch) -> Mapping[str, jax.Array]:
        """The batch that the train step descends, of the completions of a batch (traceable).

        batch: the keys of `written_spec`; the completions of one prompt are `group_size` rows in a
        row.
        """
        raise NotImplementedError

    def read_again(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """More keys [B, ...] for the batch that `rollout` gives, from a forward pass of the weights
        that wrote the completions. It is called with a micro-batch at a time.
        """
        return {}

    # ------------------------------------------------------------------------- as an objective

    def arranged(self, rows: RowDataset, batch_size: int) -> RowDataset:
        return Repeated(rows, batch_size, self.group_size, self.num_iterations)

    def why_silent(self, model: ModelConfig) -> str | None:
        return None

    def check_model(self, model: ModelConfig) -> None:
        name = type_name(type(self))
        if model.encodes or model.sees_ahead or model.prompt_format is not None:
            raise UserError(
                f"objective: {name} needs a model that continues its prompt; use a causal one "
                "without an encoder"
            )

    def resolve(self, prepared: Any, model: ModelConfig) -> Objective:
        name, task = type_name(type(self)), prepared.task
        if task is None or not task.writes:
            raise UserError(
                f"objective: {name} needs records whose answers are written; use data.type: "
                "records with a task such as prompt_completion"
            )
        if getattr(prepared.splits["train"], "packed", False):
            raise UserError(f"data.packing: {name} needs a record a row; remove it")
        return self

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
        return model.build(model.vocab_size, rngs=rngs)

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        """A record's prompt and reference as `causal_lm` has them, with the record's number."""
        as_text = CausalLM().host_transform(tokenizer, seed)

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            return {**as_text(row, index), RECORD: np.int32(row["id"])}

        return transform

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        spec = CausalLM().transform_spec(rows)
        return RowSpec({**spec, RECORD: Entry(())}, **spec.sizes)


@dataclass(frozen=True)
class Repeated:
    """Each row `copies` times in a row, and each batch in `steps` steps in a row."""

    rows: RowDataset
    batch_size: int
    copies: int
    steps: int

    @property
    def rows_per_epoch(self) -> int:
        return self.rows.rows_per_epoch * self.copies * self.steps

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        step, place = divmod(index, self.batch_size)
        return self.rows[(step // self.steps * self.batch_size + place) // self.copies]
