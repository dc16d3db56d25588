"""The measures of a task over a split: entity F1, exact match, correlations, beside its floor.

    evaluators:
      answers: {type: task, every_steps: 500, metrics: [exact_match, f1]}

The objective predicts each record of the split, or the model writes an answer to its prompt;
windows of one record are joined, and `Task.score` compares. After training the same measures are
given of baselines (`jaxlm.evals.baselines`), such as `Task.baseline`, a guess without a model from
the training records: "baseline/exact_match".
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
from jaxlm.evals.predictions import Answering, Predictions, RowPredictions
from jaxlm.evals.split_records import records_of
from jaxlm.evals.written import Written, check_writes, sampling_of, session_writer
from jaxlm.tasks.base import Record, Records, Task
from jaxlm.tasks.written import WrittenTask
from jaxlm.training.session import Session


@dataclass(frozen=True, kw_only=True)
class TaskMeasures(Evaluator):
    """The measures of the data's task."""

    metrics: tuple[str, ...] = field((), "which of the task's measures; empty: all")
    baseline: bool = field(True, "measure baselines without a neural network as well, at the end")
    num_beams: int = field(1, "beams of the search, where answers are written; 1: greedy", ge=1)
    length_penalty: float = field(
        1.0, "with beams: log p is divided by length ** this; above 1 favours long answers"
    )
    max_tokens: int | None = field(
        None, "tokens of an answer, where answers are written; null: as the task says", ge=1
    )

    def prepare(self, session: Session) -> Measuring | None:
        prepared = session.prepared
        if prepared.task_of(self.split) is None:
            raise UserError("type: task needs records (data.type: records); use type: loss")
        if not self.has_split(prepared.splits):
            return None
        scores = self.scores(session, self.rows(session))
        return BesideBaselines(scores, session, self.split) if self.baseline else scores

    def rows(self, session: Session) -> RowPredictions:
        """The predictor for rows of the session's data; compiled once, for any number of splits."""
        size = self.batch_size or session.config.train.batch_size
        tokenizer, spec = session.prepared.tokenizer, session.prepared.row_spec
        return RowPredictions(session.program, tokenizer, spec, size)

    def scores(self, session: Session, rows: RowPredictions) -> SplitScores:
        """The scores of the split, whose records have a task."""
        task = session.prepared.task_of(self.split)
        assert task is not None
        task.check_score()
        self._check_metrics(task)
        records = records_of(session.prepared, self.split)
        return SplitScores(self, task, records, self._answering(session, task, rows))

    def _check_metrics(self, task: Task) -> None:
        """Before training, not at the first evaluation."""
        known = [m.name for m in task.score([], [])]
        if not known:
            raise UserError(
                f"type: task: task {type_name(type(task))} has no measures of its own; use "
                "type: loss"
            )
        if unknown := [name for name in self.metrics if name not in known]:
            raise UserError(
                f"metrics: task {type_name(type(task))} with this data does not have "
                f"{few(unknown)}; choose from {', '.join(known)}"
            )

    def _answering(self, session: Session, task: Task, rows: RowPredictions) -> Answering:
        if isinstance(task, WrittenTask):
            if self.num_beams == 1 and self.length_penalty != 1:
                raise UserError("length_penalty: needs a beam search; set num_beams, or remove it")
            check_writes(session.config, task)
            sampling = sampling_of(
                session.config,
                task,
                num_beams=self.num_beams,
                length_penalty=self.length_penalty,
                max_tokens=self.max_tokens,
            )
            return Written(task, session_writer(session, sampling), rows.batch_size)
        if self.num_beams > 1 or self.length_penalty != 1 or self.max_tokens is not None:
            name = type_name(type(task))
            raise UserError(
                f"type: task: answers of task {name} are predicted, not written; leave num_beams, "
                "length_penalty and max_tokens out"
            )
        return Predictions(task, rows)


class SplitScores:
    """The task's measures of one split, at any parameters."""

    def __init__(
        self, config: TaskMeasures, task: Task, records: Records, answering: Answering
    ) -> None:
        self.config, self.task, self._answering = config, task, answering
        self._records = records

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
        said, true, ends = self.answered(params, max(sizes), on_batch, compiling)
        found = []
        for size in sizes:
            number = sum(end <= size for end in ends)
            found.append(self.measures(said[:number], true[:number]))
        return found

    def answered(
        self,
        params: Any,
        size: int | None = None,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> tuple[list[Any], list[Record], list[int]]:
        """The answer to each whole record of the first `size` rows, None: of all; the records; and
        the rows at which each ends.
        """
        shown = _First(self._records, len(self._records) if size is None else size)
        said, true = [], []
        ends: list[int] = []
        answers = self._answering(params, shown, on_batch=on_batch, compiling=compiling)
        for windows, answer in answers:
            said.append(self.task.said(answer))
            true.append(self.task.whole(windows))
            ends.append((ends[-1] if ends else 0) + len(windows))
        return said, true, ends

    def measures(self, said: Sequence[Any], true: Sequence[Record]) -> list[Measure]:
        """The measures of answers to records."""
        found = self.task.score(said, true)
        return [m for m in found if not self.config.metrics or m.name in self.config.metrics]

    def extent(self, count: int | None) -> dict[str, int]:
        whole = self._answering.batches(len(self._records))
        return {"batches": min(whole, count or whole), "of": whole}

    def _rows(self, count: int | None) -> int:
        """The rows of `count` batches, and those that follow of their last record."""
        size = len(self._records)
        if count is None or count * self._answering.batch_size >= size:
            return size
        last = count * self._answering.batch_size
        while last < size and not self.task.begins(self._records[last]):
            last += 1
        return last


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
