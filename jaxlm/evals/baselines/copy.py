"""The source as its own translation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxlm.evals.baselines.base import Guess
from jaxlm.tasks.base import Record, Records, Task
from jaxlm.tasks.translation import Translation

if TYPE_CHECKING:
    from jaxlm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class Copy(Guess):
    """The source, unchanged."""

    def title(self, session: Session, split: str) -> str:
        return "copy of the source"

    def fit(self, task: Task, train: Records) -> Callable[[Record], Any] | None:
        return (lambda record: record[task.source]) if isinstance(task, Translation) else None
