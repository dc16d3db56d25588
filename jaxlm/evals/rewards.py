"""The rewards of what a model writes for the prompts of a split.

    evaluators:
      rewards: {type: rewards, every_steps: 50, max_batches: 4}

The model writes one answer to each prompt, greedily, with the objective's `max_tokens`; the
objective's rewards grade it. `reward` is the mean of their sum with the objective's factors, and
where there are several, `reward/NAME` is the mean of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlm.core.config import UserError, type_name
from jaxlm.core.evaluator import Evaluator, Measuring
from jaxlm.core.measures import Measure
from jaxlm.evals.split_records import records_of
from jaxlm.evals.task import SplitScores, TaskMeasures
from jaxlm.evals.written import Written, sampling_of, session_writer
from jaxlm.objectives.graded import Graded
from jaxlm.objectives.rewards import Rewards
from jaxlm.tasks.base import Record
from jaxlm.tasks.written import WrittenTask
from jaxlm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class RewardMeasures(Evaluator):
    """The objective's rewards of what the model writes."""

    def prepare(self, session: Session) -> Measuring | None:
        objective, prepared = session.config.objective, session.prepared
        if not isinstance(objective, Graded):
            name = type_name(type(objective))
            raise UserError(
                f"type: rewards measures an objective with rewards, such as grpo, and {name} has "
                "none; use type: loss or task"
            )
        if not self.has_split(prepared.splits):
            return None
        task = prepared.task_of(self.split)
        assert isinstance(task, WrittenTask), "the objective checks it"
        sampling = sampling_of(session.config, task, max_tokens=objective.max_tokens)
        size = self.batch_size or session.config.train.batch_size
        written = Written(task, session_writer(session, sampling), size)
        return RewardScores(objective, task, records_of(prepared, self.split), written)


class RewardScores(SplitScores):
    """The rewards of one split, at any parameters."""

    def __init__(self, objective: Graded, task: WrittenTask, records: Any, written: Written):
        super().__init__(TaskMeasures(), task, records, written)
        self._objective, self._rewards = objective, Rewards(task, objective.rewards)

    def measures(self, said: Sequence[Any], true: Sequence[Record]) -> list[Measure]:
        objective = self._objective
        graded = [self._rewards(*pair) for pair in zip(true, said, strict=True)]
        means = np.array(graded, np.float64).mean(axis=0)
        total = float(means @ np.array(objective.factors))
        each = zip(objective.reward_names, means.tolist(), strict=False)
        return [
            Measure("reward", total, better="higher", show="headline", format=".3f"),
            *(Measure(name, value, better="higher", format=".3f") for name, value in each),
        ]
