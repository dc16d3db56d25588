"""The guess that a task has itself (`Task.baseline`): the largest class, the most frequent tag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxlm.evals.baselines.base import Guess
from jaxlm.tasks.base import Record, Records, Task

if TYPE_CHECKING:
    from jaxlm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class TaskGuess(Guess):
    """The task's own guess, from the training records."""

    @property
    def key(self) -> str:
        return "baseline"

    def title(self, session: Session, split: str) -> str:
        task = session.prepared.task
        return "baseline" if task is None else task.baseline_title

    def fit(self, task: Task, train: Records) -> Callable[[Record], Any] | None:
        return task.baseline(train)
