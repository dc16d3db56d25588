"""The target of the most similar source of the training records (`jaxlm.evals.similar_texts`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxlm.evals.baselines.base import Guess
from jaxlm.evals.similar_texts import SimilarTexts
from jaxlm.tasks.base import Record, Records, Task
from jaxlm.tasks.sources import SourceTask

if TYPE_CHECKING:
    from jaxlm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class Nearest(Guess):
    """The target of the most similar training source."""

    def title(self, session: Session) -> str:
        return "target of the nearest source"

    def fit(self, task: Task, train: Records) -> Callable[[Record], Any] | None:
        if not isinstance(task, SourceTask) or self.key not in task.guesses or not len(train):
            return None
        source, target = task.source, task.target
        texts = SimilarTexts([*train.column(source)])
        return lambda record: train[texts.nearest(record[source])][target]
