"""The answer to the most similar prompt of the training records (`jaxlm.evals.similar_texts`): the
target of the nearest source, the answer of the nearest chat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.evals.baselines.base import Guess
from jaxlm.evals.similar_texts import SimilarTexts
from jaxlm.evals.split_records import records_of, spread
from jaxlm.tasks.base import Record, Records, Task
from jaxlm.tasks.sources import SourceTask
from jaxlm.tasks.written import WrittenTask

if TYPE_CHECKING:
    from jaxlm.training.session import Session

TEXTS = 50_000  # prompts that are indexed, evenly spread


@dataclass(frozen=True, kw_only=True)
class Nearest(Guess):
    """The answer to the most similar training prompt."""

    most: ClassVar[int | None] = 2000  # with TEXTS prompts: two minutes

    def title(self, session: Session, split: str) -> str:
        writes_target = isinstance(session.prepared.task, SourceTask)
        title = "target of the nearest source" if writes_target else "answer to the nearest prompt"
        if self.most is None or len(records_of(session.prepared, split)) <= self.most:
            return title
        return f"{title}, of {self.most:,} records"

    def fit(self, task: Task, train: Records) -> Callable[[Record], Any] | None:
        if not isinstance(task, WrittenTask) or not len(train):
            return None
        chosen = [int(i) for i in spread(len(train), TEXTS)]
        texts = SimilarTexts([task.prompt(train[i]) for i in chosen])
        nearest = lambda record: train[chosen[texts.nearest(task.prompt(record))]]  # noqa: E731
        return lambda record: task.reference(nearest(record))
