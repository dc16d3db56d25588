"""The longer of two answers to a prompt, which is often the preferred one."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.core.measures import Measure
from jaxlm.evals.baselines.base import Baseline
from jaxlm.evals.split_records import records_of
from jaxlm.objectives.base_pairs import ACCURACY
from jaxlm.tasks.base import Record
from jaxlm.tasks.preference import Preference

if TYPE_CHECKING:
    from jaxlm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class LongerAnswer(Baseline):
    """The answer with more characters; equal ones are right half of the time."""

    def suits(self, session: Session, names: Container[str]) -> bool:
        return isinstance(session.prepared.task, Preference) and ACCURACY.name in names

    def measures(
        self, session: Session, split: str, *, on_batch: Callable[[], object] = lambda: None
    ) -> list[Measure] | None:
        task = session.prepared.task
        if not isinstance(task, Preference):
            return None
        right = [_share(task, record) for record in records_of(session.prepared, split)]
        on_batch()
        return [ACCURACY.of(sum(right) / len(right))] if right else None


def _share(task: Preference, record: Record) -> float:
    """1 where the chosen answer is longer, 0.5 where both are equally long."""
    chosen, rejected = (
        len(task.one.reference(task.side(record, column)))
        for column in (task.chosen_column, task.rejected_column)
    )
    return 0.5 * ((chosen > rejected) + (chosen >= rejected))
