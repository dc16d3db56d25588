"""What a model predicts for rows and for records: batches, their padding, and windows joined.

    predict = RowPredictions(program, tokenizer, spec, batch_size=32)
    for arrays in predict(params, rows): ...                # {"probs": [C]} of each row, in order

    for windows, answer in answers(task, tokenizer, windows, predict(params, rows)): ...

Rows and batches are those of an evaluation: the last batch is filled with padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.evaluator import Compiling
from jaxlm.core.rows import RowSpec
from jaxlm.core.types import RowDataset, Tokenizer
from jaxlm.data.loader import Loader
from jaxlm.data.rows.encoded import lay_out
from jaxlm.evals.loss import EVAL_SEED
from jaxlm.evals.one_pass import OnePass
from jaxlm.tasks.base import Record, Task
from jaxlm.training.ahead import Ahead
from jaxlm.training.program import Program

Predicted = dict[str, np.ndarray]


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
        """What the objective predicts for each row, in order, without the dim B."""
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


def answers(
    task: Task, tokenizer: Tokenizer, windows: Iterable[Record], arrays: Iterable[Predicted]
) -> Iterator[tuple[list[Record], dict[str, Any]]]:
    """(its windows, what is predicted) of each record; arrays: of each window, in order."""
    ours: list[tuple[Record, Predicted]] = []
    for window, each in zip(windows, arrays, strict=False):
        if ours and task.begins(window):
            yield _answer(task, tokenizer, ours)
            ours = []
        ours.append((window, each))
    if ours:
        yield _answer(task, tokenizer, ours)


def _answer(
    task: Task, tokenizer: Tokenizer, ours: Sequence[tuple[Record, Predicted]]
) -> tuple[list[Record], dict[str, Any]]:
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
