"""The target of the most similar source of the training records (`jaxlm.evals.similar_texts`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.evals.baselines.base import Guess
from jaxlm.evals.similar_texts import SimilarTexts
from jaxlm.evals.split_records import records_of, spread
from jaxlm.tasks.base import Record, Records, Task
from jaxlm.tasks.sources import SourceTask

if TYPE_CHECKING:
    from jaxlm.training.session import Session

TEXTS = 50_000  # sources that are indexed, evenly spread


@dataclass(frozen=True, kw_only=True)
class Nearest(Guess):
    """The target of the most similar training source."""

    most: ClassVar[int | None] = 2000  # with TEXTS sources: two minutes

    def title(self, session: Session, split: str) -> str:
        title = "target of the nearest source"
        if self.most is None or len(records_of(session.prepared, split)) <= self.most:
            return title
        return f"{title}, of {self.most:,} records"

    def fit(self, task: Task, train: Records) -> Callable[[Record], Any] | None:
        if not isinstance(task, SourceTask) or not len(train):
            return None
        source, target = task.source, task.target
        chosen = [int(i) for i in spread(len(train), TEXTS)]
        texts = SimilarTexts([train[i][source] for i in chosen])
        return lambda record: train[chosen[texts.nearest(record[source])]][target]
