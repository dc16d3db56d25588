"""A model's predictions for rows and for records: batches, their padding, and windows joined.

    predict = RowPredictions(program, tokenizer, spec, batch_size=32)
    for arrays in predict(params, rows): ...                # {"probs": [C]} of each row, in order

    answering = Predictions(task, predict)
    for windows, answer in answering(params, windows): ...  # {"label": "good", ...} of each record

Rows and batches are those of an evaluation: the last batch is filled with padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import jax
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError
from jaxlm.core.evaluator import Compiling
from jaxlm.core.rows import RowSpec
from jaxlm.core.types import RowDataset, Tokenizer
from jaxlm.data.loader import Loader
from jaxlm.data.rows.encoded import lay_out
from jaxlm.evals.loss import EVAL_SEED
from jaxlm.evals.one_pass import OnePass
from jaxlm.run import RunConfig
from jaxlm.tasks.base import Record, Task
from jaxlm.training.ahead import Ahead
from jaxlm.training.program import Program

IMPORTED_LENGTH = 512  # tokens of a row of a run that was imported, at most
Predicted = dict[str, np.ndarray]
Answer = tuple[list[Record], dict[str, Any]]  # the windows of one record, and what is predicted


class Answering(Protocol):
    """Answers the records of a task, by an objective that predicts or a model that writes."""

    @property
    def batch_size(self) -> int: ...

    def __call__(
        self,
        params: Any,
        windows: Sequence[Record],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> Iterator[Answer]:
        """(its windows, its answer as JSON values) of each record, in order.

        windows: as `Task.windows` gives them. on_batch, compiling: as of `Measuring.after`.
        """
        ...

    def batches(self, rows: int) -> int:
        """The batches that so many windows are."""
        ...


@dataclass(frozen=True)
class RowPredictions:
    """Applies a program's objective to rows; compiled once, for one size of batch."""

    program: Program
    tokenizer: Tokenizer
    spec: RowSpec
    batch_size: int

    def __call__(
        self,
        params: Any,
        rows: RowDataset,
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> Iterator[Predicted]:
        """Yields the objective's prediction for each row, in order, without the dim B."""
        program, size, count = self.program, self.batch_size, rows.rows_per_epoch
        meshes.check_batch(size, program.mesh, "eval.batch_size")
        loader = Loader(
            OnePass(rows, self.spec),
            program.objective.host_transform(self.tokenizer, EVAL_SEED),
            size,
            meshes.local_rows(size, program.mesh),
        )
        batches = loader.batches()
        try:
            for first in range(0, count, size):
                row = dict(next(batches))
                row.pop("id")
                with jax.set_mesh(program.mesh):
                    batch = meshes.to_global(row, program.mesh)
                    found = jax.device_get(self._step(params, batch, compiling=compiling))
                on_batch()
                for n in range(min(size, count - first)):
                    yield {name: value[n] for name, value in found.items()}
        finally:
            loader.close()

    def batches(self, rows: int) -> int:
        return math.ceil(rows / self.batch_size)

    @cached_property
    def _step(self) -> Ahead:
        whole = meshes.replicated(self.program.mesh)
        return Ahead(jax.jit(self.program.predict_step, out_shardings=whole))


def imported_task(config: RunConfig, name: Any) -> tuple[Task, int]:
    """The task of a run that was imported without data, and the tokens of its rows: what the model
    has positions for, at most 512. Raises `UserError` where the task is not known.
    """
    task = config.objective.own_task
    if task is None:
        raise UserError(
            f"{name}: was imported without data and without a head for a task; fine-tune it first"
        )
    return task, min(config.model.max_positions or IMPORTED_LENGTH, IMPORTED_LENGTH)


def marked(task: Task, tokenizer: Tokenizer) -> Task:
    """The task of an import, whose rows begin and end as its tokenizer's files say."""
    return task.replace(add_bos=tokenizer.adds_bos, add_eos=tokenizer.adds_eos)


@dataclass(frozen=True)
class Predictions:
    """The answers that an objective predicts; as `Answering`."""

    task: Task
    predict: RowPredictions

    @property
    def batch_size(self) -> int:
        return self.predict.batch_size

    def __call__(
        self,
        params: Any,
        windows: Sequence[Record],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> Iterator[Answer]:
        tokenizer = self.predict.tokenizer
        rows = RecordRows(windows, self.task, tokenizer, self.predict.spec)
        arrays = self.predict(params, rows, on_batch=on_batch, compiling=compiling)
        return answers(self.task, tokenizer, windows, arrays)

    def batches(self, rows: int) -> int:
        return self.predict.batches(rows)


def answers(
    task: Task, tokenizer: Tokenizer, windows: Iterable[Record], arrays: Iterable[Predicted]
) -> Iterator[Answer]:
    """(its windows, what is predicted) of each record; arrays: of each window, in order."""
    ours: list[tuple[Record, Predicted]] = []
    for window, each in zip(windows, arrays, strict=False):
        if ours and task.begins(window):
            yield _answer(task, tokenizer, ours)
            ours = []
        ours.append((window, each))
    if ours:
        yield _answer(task, tokenizer, ours)


def _answer(task: Task, tokenizer: Tokenizer, ours: Sequence[tuple[Record, Predicted]]) -> Answer:
    windows = [window for window, _ in ours]
    return windows, task.answer(windows, [each for _, each in ours], tokenizer)


@dataclass(frozen=True)
class RecordRows:
    """Record i as row i."""

    records: Sequence[Record]
    task: Task
    tokenizer: Tokenizer
    spec: RowSpec

    @property
    def rows_per_epoch(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        room = self.spec.sizes["T"]
        encoded = self.task.encode(self.records[index], self.tokenizer, room)
        return lay_out([encoded], self.spec, index)
