"""A baseline: the measures of a split that need no neural network, such as those of naive Bayes.

Every baseline that suits a run is measured once, at the end of training and by `jaxlm eval`. A
model that does not reach it has learned less than a table of counts knows. A new one is one file of
this folder, or an entry point in the group `jaxlm.baselines`:

    @dataclass(frozen=True, kw_only=True)
    class Copy(Guess):
        \"\"\"The source as its own translation.\"\"\"

        def fit(self, task, train):
            return (lambda record: record["source"]) if isinstance(task, Translation) else None

One whose measures are not those of a task, such as the bits per byte of n-grams, derives from
`Baseline` and returns the measures of the objective by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.core.config import Config, Kind, type_name
from jaxlm.core.measures import Measure
from jaxlm.evals.split_records import records_of, spread, whole_records
from jaxlm.tasks.base import Record, Records, Task

if TYPE_CHECKING:
    from jaxlm.training.session import Session

EVERY = 32  # answers between two calls of `on_batch`


@dataclass(frozen=True, kw_only=True)
class Baseline(Config):
    """A result that is reached without a neural network."""

    kind: ClassVar = Kind("baselines", "baseline", folder="jaxlm.evals.baselines")

    @property
    def key(self) -> str:
        """Its name in the keys of metrics.jsonl: "naive_bayes" of "final/naive_bayes/accuracy"."""
        name = type_name(type(self))
        assert name is not None
        return name

    def title(self, session: Session, split: str) -> str:
        """Its name for people: "naive Bayes"; of a split of which it answers a part, with that.

        It is asked only where there are measures.
        """
        return self.key.replace("_", " ")

    def suits(self, session: Session, names: Container[str]) -> bool:
        """Whether it has a measure that a model has as well; `names`: those of the model."""
        return True

    def measures(
        self, session: Session, split: str, *, on_batch: Callable[[], object] = lambda: None
    ) -> list[Measure] | None:
        """Its measures of a split, named as the model's, the main one first; None: it does not suit
        the run.

        on_batch: called now and then; the watchdog needs it.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Guess(Baseline, abstract=True):
    """The base of those that answer the records of a task, whose `score` compares them."""

    # How many records of a split are answered, evenly spread; None: all.
    most: ClassVar[int | None] = None

    def fit(self, task: Task, train: Records) -> Callable[[Record], Any] | None:
        """A function that answers a record for `Task.score`; None: it does not suit the task."""
        raise NotImplementedError

    def suits(self, session: Session, names: Container[str]) -> bool:
        task = session.prepared.task
        return task is not None and any(m.name in names for m in task.score([], []))

    def measures(
        self, session: Session, split: str, *, on_batch: Callable[[], object] = lambda: None
    ) -> list[Measure] | None:
        prepared = session.prepared
        task, splits = prepared.task, prepared.splits
        if task is None or not all(hasattr(splits.get(s), "rows") for s in ("train", split)):
            return None
        guess = self.fit(task, records_of(prepared, "train"))
        if guess is None:
            return None
        true = whole_records(task, records_of(prepared, split))
        if self.most is not None:
            true = [true[i] for i in spread(len(true), self.most)]
        said = []
        for number, record in enumerate(true):
            if number % EVERY == 0:
                on_batch()
            said.append(guess(record))
        on_batch()
        return task.score(said, true)
