"""Objectives that learn from texts that the model itself writes for the prompts of records.

A step of such an objective has two parts. The learner (`jaxlm.generate.rollouts`) draws completions
of the batch's prompts from the current weights; `rollout` makes of them the batch that the train
step descends. Both are a function of the weights, the seed and the step alone, so a run that was
killed writes the same texts again. An objective may write at some steps only (`writes`): at the
others the train step descends what `of_records` makes of the records' own completions.

    completions_per_prompt 8    a batch of 64 rows has the completions of 8 prompts
    steps_per_rollout 2         each rollout serves two steps in a row

A rollout that serves several steps is part of the train state, and so of a checkpoint. Examples are
`jaxlm/objectives/grpo.py`, whose base `graded.py` adds rewards, and `gkd.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.core.config import UserError, field, type_name
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.core.sampling import Sampling
from jaxlm.core.types import RowDataset
from jaxlm.objectives.base import Objective, Transform
from jaxlm.objectives.causal_lm import CausalLM
from jaxlm.objectives.prediction import PREDICTED, shifted

if TYPE_CHECKING:
    import jax

    from jaxlm.core.types import Batch, ModelConfig, Tokenizer
    from jaxlm.tasks.base import Record, Task

RECORD = "record"  # the key of a batch that has the number of each row's record
# of an error, for objectives that pack
PACKS_WRITTEN = ", and set objective.packing, which packs what is written"
COMPLETION = "completion"  # of packed rows, [R, T]: the number of each token's completion

# What the learner gives `rollout`: completions after their prompts, as rows of text, with
# `loss_weights` 1 where a target is of the completion; truncated is 1 where no end-of-text was
# written. An objective may add keys (`written_transform`, `judge`).
WRITTEN = {**PREDICTED, "truncated": Entry((), "float32")}


@dataclass(frozen=True, kw_only=True)
class OnPolicy(Objective, abstract=True):
    """The base of objectives that learn from what the model writes."""

    learner: ClassVar[str] = "jaxlm.generate.rollouts:RolloutLearner"
    on_policy: ClassVar[bool] = True
    uses = ("loss_weights",)

    instead_of_packing: ClassVar[str] = ""  # what else packs, for an error

    max_tokens: int = field(128, "the most tokens of a completion", ge=1)

    # ------------------------------------------------------------------------------- what is drawn

    @property
    def sampling(self) -> Sampling:
        """The sampling of completions."""
        return Sampling(max_tokens=self.max_tokens, temperature=1.0)

    @property
    def completions_per_prompt(self) -> int:
        """The number of rows in a row of a batch that complete the same prompt."""
        return 1

    @property
    def steps_per_rollout(self) -> int:
        """The number of optimizer steps in a row that descend on the same completions."""
        return 1

    @property
    def packs(self) -> bool:
        """Whether a row of the train step has several completions: `rollout` is given R rows of
        text, with `COMPLETION`, and what it is given of each completion has B rows.
        """
        return False

    def writes(self, step: int, seed: int) -> bool:
        """Whether the model writes the texts of a step (from 0); a function of both numbers."""
        return True

    def check_ends(self, eos_ids: Sequence[int]) -> None:
        """Raises `UserError` where it cannot learn from completions that end with these ids."""

    # ------------------------------------------------------------------------------ the rollout

    def judge(self, task: Task) -> Callable[[Record, str], Mapping[str, Any]]:
        """A function of a record and the text of its completion, which gives more keys of a row.
        Raises `UserError` where the task cannot do that.
        """
        return lambda record, text: {}

    def written_transform(self, tokenizer: Tokenizer) -> Transform:
        """A function from a completion after its prompt, a raw row [T + 1], to a row [T]."""
        return lambda row, index: shifted(row)

    def rollout_spec(self, length: int) -> RowSpec:
        """The entries of a row of `rollout`, with `length` tokens."""
        raise NotImplementedError

    def rollout(self, batch: Batch) -> Mapping[str, jax.Array]:
        """The batch that the train step descends, of the completions of a batch (traceable).

        batch: the keys of `WRITTEN`, and those that the objective adds; the completions of one
        prompt are `completions_per_prompt` rows in a row.
        """
        raise NotImplementedError

    def of_records(self, batch: Batch) -> Mapping[str, jax.Array]:
        """The batch of a step at which nothing is written, in the shapes of `rollout`, from that of
        the loader (traceable).
        """
        raise NotImplementedError

    def read_again(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """More keys [B, ...] for the batch that `rollout` gives, from a forward pass of the weights
        that wrote the completions. It is called with a micro-batch at a time.
        """
        return {}

    # ------------------------------------------------------------------------- as an objective

    def arranged(self, rows: RowDataset, batch_size: int) -> RowDataset:
        return Repeated(rows, batch_size, self.completions_per_prompt, self.steps_per_rollout)

    def why_silent(self, model: ModelConfig) -> str | None:
        return None

    def check_model(self, model: ModelConfig) -> None:
        name = type_name(type(self))
        if model.is_encoder_decoder or model.sees_ahead or model.prompt_format is not None:
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
            raise UserError(
                f"data.packing: {name} needs a record a row; remove it" + self.instead_of_packing
            )
        return self

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
