"""All answers of one kind: desirable, or not, whichever is more frequent in training."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.core.measures import Measure
from jaxlm.evals.baselines.base import Baseline
from jaxlm.evals.split_records import records_of
from jaxlm.objectives.kto import ACCURACY
from jaxlm.tasks.kto import KTO

if TYPE_CHECKING:
    from jaxlm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class MajorityLabel(Baseline):
    """The more frequent label of the training answers, for all."""

    def suits(self, session: Session, names: Container[str]) -> bool:
        return isinstance(session.prepared.task, KTO) and ACCURACY.name in names

    def measures(
        self, session: Session, split: str, *, on_batch: Callable[[], object] = lambda: None
    ) -> list[Measure] | None:
        task = session.prepared.task
        if not isinstance(task, KTO):
            return None
        train, measured = (
            [bool(label) for label in records_of(session.prepared, name).column(task.label_column)]
            for name in ("train", split)
        )
        on_batch()
        if not train or not measured:
            return None
        majority = 2 * sum(train) >= len(train)
        return [ACCURACY.of(sum(label == majority for label in measured) / len(measured))]
