"""What a run predicts for records whose answers are not known: the class of a text, and so on.

run.predict(["a fine film"])    # [{"label": "good", "score": 0.93, "scores": {"bad": 0.07, ...}}]
run.predict("reviews.csv")      # one dict for each row of the file, in order

The task says what the columns of a record mean, and the objective what is predicted. Rows, batches
and their padding are those of an evaluation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError, type_name
from jaxlm.core.errors import few
from jaxlm.core.rows import RowSpec
from jaxlm.core.types import Tokenizer
from jaxlm.data.detect import detect
from jaxlm.data.held_out import file_column, own_data, unanswered_source
from jaxlm.data.loader import Loader
from jaxlm.data.reading.rows import cell
from jaxlm.data.reading.text import check_characters
from jaxlm.data.rows.encoded import lay_out
from jaxlm.evals.loss import EVAL_SEED
from jaxlm.evals.one_pass import OnePass
from jaxlm.evals.run import facts_of
from jaxlm.runs.folder import RunDir
from jaxlm.tasks.base import Record, Task

if TYPE_CHECKING:
    from jaxlm.api.run import Run

Given = Sequence[Mapping[str, Any]] | Sequence[str] | str | Path
Prediction = dict[str, Any]


class Predictor:
    """Applies the objective of a run to records; compiled once, for one size of batch."""

    def __init__(self, run: Run) -> None:
        """Raises `UserError` for a run that predicts nothing for records."""
        config = run.config
        if config.data is None:
            raise UserError(f"{run.path}: was imported without data; fine-tune it, then predict")
        self._run, self._data = run, own_data(config.data)
        task: Task | None = getattr(self._data, "task", None)
        if task is None:
            raise UserError(
                f"{run.path}: its data is running text, so it predicts nothing for records; load a "
                "run of data.type records, or use logits, perplexity or generate"
            )
        if not task.asked:
            raise UserError(
                f"{run.path}: task {type_name(type(task))} does not say which columns a record "
                "without its answer has; give it `asked` and `unanswered`"
            )
        self._task = task.given(facts_of(RunDir(run.path)))
        self._batch_size = config.eval.batch_size or config.train.batch_size

    def __call__(self, given: Given) -> list[Prediction]:
        """One dict for each record, in order."""
        records = [self._record(*each) for each in self._read(given)]
        if not records:
            raise UserError("records: is empty; give at least one")
        found: list[Prediction] = []
        for arrays in self._batches(records):
            rows = min(self._batch_size, len(records) - len(found))
            found += [
                self._task.prediction({name: value[n] for name, value in arrays.items()})
                for n in range(rows)
            ]
        return found

    # ------------------------------------------------------------------------------------ records

    def _read(self, given: Given) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(place, record) in order: of a file "reviews.csv:12", of a list "record 0"."""
        if isinstance(given, str | Path):
            yield from self._read_file(str(given))
            return
        if isinstance(given, Mapping):
            raise UserError("records: is one record; give a list of records")
        columns = self._task.asked
        for number, record in enumerate(given):
            here = f"record {number}"
            if isinstance(record, str):
                if len(columns) > 1:
                    raise UserError(f"{here}: is a text; give a dict of {few(columns)}")
                record = {columns[0]: record}
            if not isinstance(record, Mapping):
                raise UserError(
                    f"{here}: is a {type(record).__name__}; give a dict of {few(columns)}"
                )
            yield here, record

    def _read_file(self, path: str) -> Iterator[tuple[str, Record]]:
        left_out: Counter[str] = Counter()
        source = unanswered_source(detect([path]), self._data)
        yield from source.records(self._task.asked, left_out)
        if number := left_out.total():
            reasons = few(reason for reason, count in left_out.items() if count)
            raise UserError(f"{path}: {number} of its rows cannot be used ({reasons}); remove them")

    def _record(self, here: str, record: Mapping[str, Any]) -> Record:
        """A record that the task can encode."""
        asked = {}
        for column in self._task.asked:
            name = column if column in record else file_column(self._data, column)
            asked[column] = cell(record, name, here)
        for value in asked.values():
            if isinstance(value, str):
                check_characters(value, here)
        try:
            return self._task.unanswered(asked)
        except UserError as error:
            raise UserError(f"{here}: {error}") from None

    # ------------------------------------------------------------------------------------ batches

    def _batches(self, records: Sequence[Record]) -> Iterator[dict[str, np.ndarray]]:
        """What the objective predicts for each batch; the last one is filled with padding."""
        program, tokenizer, size = self._run.program, self._run.tokenizer, self._batch_size
        meshes.check_batch(size, program.mesh, "eval.batch_size")
        spec = self._data.row_spec(tokenizer.pad_id)
        loader = Loader(
            OnePass(UnansweredRows(records, self._task, tokenizer, spec), spec),
            program.objective.host_transform(tokenizer, EVAL_SEED),
            size,
            meshes.local_rows(size, program.mesh),
        )
        batches = loader.batches()
        try:
            with jax.set_mesh(program.mesh):
                for _ in range(math.ceil(len(records) / size)):
                    rows = dict(next(batches))
                    rows.pop("id")
                    batch = meshes.to_global(rows, program.mesh)
                    yield jax.device_get(self._step(self._run.params, batch))
        finally:
            loader.close()

    @cached_property
    def _step(self) -> Any:
        program = self._run.program
        return jax.jit(program.predict_step, out_shardings=meshes.replicated(program.mesh))


@dataclass(frozen=True)
class UnansweredRows:
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
