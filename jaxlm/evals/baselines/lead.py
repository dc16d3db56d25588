"""The first sentences of a document as its summary, as many as training summaries have."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxlm.evals.baselines.base import Guess
from jaxlm.evals.split_records import records_of
from jaxlm.tasks.base import Record, Records, Task
from jaxlm.tasks.summarisation import Summarisation

if TYPE_CHECKING:
    from jaxlm.training.session import Session

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
LOOKED_AT = 2000  # summaries whose sentences are counted


@dataclass(frozen=True, kw_only=True)
class Lead(Guess):
    """The first sentences of the document."""

    def title(self, session: Session, split: str) -> str:
        task = session.prepared.task
        if not isinstance(task, Summarisation):
            return self.key
        return f"lead-{lead_size(task, records_of(session.prepared, 'train'))}"

    def fit(self, task: Task, train: Records) -> Callable[[Record], Any] | None:
        if not isinstance(task, Summarisation):
            return None
        source, size = task.source, lead_size(task, train)
        return lambda record: " ".join(sentences(record[source])[:size])


def lead_size(task: Summarisation, train: Records) -> int:
    """The mean number of sentences of a training summary, at least 1."""
    sizes = [len(sentences(t)) for t in itertools.islice(train.column(task.target), LOOKED_AT)]
    return max(1, round(sum(sizes) / max(len(sizes), 1)))


def sentences(text: str) -> list[str]:
    return [part.strip() for part in SENTENCE_END.split(text) if part.strip()]
