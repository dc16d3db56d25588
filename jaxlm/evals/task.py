"""The measures of a task over a split: entity F1, exact match, correlations, beside its floor.

    evaluators:
      answers: {type: task, every_steps: 500, metrics: [exact_match, f1]}

The objective predicts each record of the split, windows of one are joined, and `Task.score`
compares. After training the same measures are given of baselines (`jaxlm.evals.baselines`), such as
`Task.baseline`, a guess without a model from the training records: "baseline/exact_match".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError, field, type_name
from jaxlm.core.errors import few
from jaxlm.core.evaluator import Compiling, Evaluator, Measuring
from jaxlm.core.measures import Measure
from jaxlm.evals.beside_baselines import BesideBaselines
from jaxlm.evals.predictions import RecordRows, RowPredictions, answers
from jaxlm.evals.split_records import records_of
from jaxlm.tasks.base import Record, Records
from jaxlm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class TaskMeasures(Evaluator):
    """The measures of the data's task."""

    metrics: tuple[str, ...] = field((), "which of the task's measures; empty: all")
    baseline: bool = field(True, "measure baselines without a neural network as well, at the end")

    def prepare(self, session: Session) -> Measuring | None:
        prepared = session.prepared
        if prepared.task is None:
            raise UserError("type: task needs records (data.type: records); use type: loss")
        if prepared.task.writes:
            name = type_name(type(prepared.task))
            raise UserError(
                f"type: task measures what is predicted, and a model of task {name} writes text; "
                "use type: loss"
            )
        if not self.has_split(prepared.splits):
            return None
        scores = SplitScores(self, session)
        return BesideBaselines(scores, session, self.split) if self.baseline else scores


class SplitScores:
    """The task's measures of one split, at any parameters."""

    def __init__(self, config: TaskMeasures, session: Session) -> None:
        prepared = session.prepared
        assert prepared.task is not None
        self.config, self.task, self.tokenizer = config, prepared.task, prepared.tokenizer
        self._records = records_of(prepared, config.split)
        size = config.batch_size or session.config.train.batch_size
        spec = prepared.row_spec
        self._predict = RowPredictions(session.program, self.tokenizer, spec, size)

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """As `jaxlm.core.evaluator.Measuring`; the first n batches, to the end of their last
        record.
        """
        sizes = [self._rows(count) for count in counts]
        shown = _First(self._records, max(sizes))
        rows = RecordRows(shown, self.task, self.tokenizer, self._predict.spec)
        arrays = self._predict(params, rows, on_batch=on_batch, compiling=compiling)
        said, true = [], []
        ends: list[int] = []
        for windows, answer in answers(self.task, self.tokenizer, shown, arrays):
            said.append(self.task.said(answer))
            true.append(self.task.whole(windows))
            ends.append((ends[-1] if ends else 0) + len(windows))
        found = []
        for size in sizes:
            number = sum(end <= size for end in ends)
            found.append(self._chosen(self.task.score(said[:number], true[:number])))
        return found

    def extent(self, count: int | None) -> dict[str, int]:
        whole = self._predict.batches(len(self._records))
        return {"batches": min(whole, count or whole), "of": whole}

    def _rows(self, count: int | None) -> int:
        """The rows of `count` batches, and those that follow of their last record."""
        size = len(self._records)
        if count is None or count * self._predict.batch_size >= size:
            return size
        last = count * self._predict.batch_size
        while last < size and not self.task.begins(self._records[last]):
            last += 1
        return last

    def _chosen(self, measures: Sequence[Measure]) -> list[Measure]:
        known = [m.name for m in measures]
        if unknown := [name for name in self.config.metrics if name not in known]:
            name = type_name(type(self.task))
            raise UserError(
                f"metrics: task {name} with this data does not have {few(unknown)}; it has "
                f"{few(known)}"
            )
        return [m for m in measures if not self.config.metrics or m.name in self.config.metrics]


def with_task(measuring: Measuring, session: Session, config: Evaluator) -> Measuring:
    """What measures as `measuring`, and the measures of the data's task where it has some that an
    objective's sums do not give.
    """
    prepared = session.prepared
    task, split = prepared.task, prepared.splits.get(config.split)
    if task is None or not task.scored or not hasattr(split, "rows"):
        return measuring
    plain = TaskMeasures(split=config.split, batch_size=config.batch_size, baseline=False)
    scores = plain.prepare(session)
    return measuring if scores is None else Joined(measuring, scores)


@dataclass(frozen=True)
class Joined:
    """The measures of two, as of one evaluator; of equal names the first one counts."""

    first: Measuring
    second: Measuring

    def after(
        self,
        params: Any,
        counts: Sequence[int | None],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> list[list[Measure]]:
        """As `jaxlm.core.evaluator.Measuring`."""
        a, b = (
            each.after(params, counts, on_batch=on_batch, compiling=compiling)
            for each in (self.first, self.second)
        )
        return [
            [*first, *(m for m in second if m.name not in {known.name for known in first})]
            for first, second in zip(a, b, strict=True)
        ]

    def extent(self, count: int | None) -> dict[str, int] | None:
        return self.first.extent(count)


@dataclass(frozen=True)
class _First(Sequence[Record]):
    """The first records of a split."""

    records: Records
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.size:
            raise IndexError(index)
        return self.records[index]
