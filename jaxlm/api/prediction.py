"""A run's predictions for records whose answers are not known: the class of a text, and so on.

run.predict(["a fine film"])    # [{"label": "good", "score": 0.93, "scores": {"bad": 0.07, ...}}]
run.predict("reviews.csv")      # one dict for each row of the file, in order

The task says what the columns of a record mean, and the objective what is predicted, or the model
writes the answer (`jaxlm.evals.written`). Rows, batches and their padding are those of an
evaluation.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from jaxlm.api.trained import Trained
from jaxlm.core.config import UserError, type_name
from jaxlm.core.errors import few
from jaxlm.core.files import write_atomic
from jaxlm.data.detect import detect
from jaxlm.data.held_out import (
    columns_of,
    file_column,
    found_in,
    has_a_record_a_line,
    own_data,
    own_settings,
    own_source,
    unanswered_source,
)
from jaxlm.data.reading.rows import cell
from jaxlm.data.reading.text import check_characters
from jaxlm.data.store.prepared import DataConfig
from jaxlm.evals.predictions import Answering, Predictions, RowPredictions, imported_task, marked
from jaxlm.evals.run import facts_of
from jaxlm.evals.written import Writing, Written, sampling_of
from jaxlm.run import RunConfig
from jaxlm.runs.folder import RunDir
from jaxlm.tasks.base import Record, Task
from jaxlm.tasks.written import WrittenTask

log = logging.getLogger("jaxlm")

Given = Sequence[Mapping[str, Any]] | Sequence[str] | str | Path
Prediction = dict[str, Any]


class Placed(NamedTuple):
    """A record and where it is: of a file "reviews.csv:12", of a list "record 0"."""

    place: str
    record: Record


class Predictor:
    """Applies the objective of a run to records; compiled once, for one size of batch."""

    def __init__(
        self,
        run: Trained,
        batch_size: int | None = None,
        report: Callable[[str], object] = log.info,
        **writing: Unpack[Writing],
    ) -> None:
        """Raises `UserError` for a run that predicts nothing for records.

        report: gets a line where a file may be read in another way. writing: how answers are
        written, where they are.
        """
        self._writing, self._report = writing, report
        config = run.config
        self.batch_size = batch_size or config.eval.batch_size or config.train.batch_size
        self._run, self._own = run, own_source(config.data)
        if config.data is None:
            task, self._seq_len = imported_task(config, run.path)
        else:
            data = own_data(config.data)
            task = config.objective.asking(_task_of(config, data, run.path))
            self._seq_len = min(data.row_length, config.model.max_positions or data.row_length)
        if not task.asked:
            raise UserError(
                f"{run.path}: task {type_name(type(task))} does not say which columns a record "
                "without its answer has, so nothing is predicted; measure the run with `jaxlm "
                "eval`, or give a task of your own `asked` and `unanswered`"
            )
        if config.data is None:
            task = marked(task, run.tokenizer)
        elif getattr(data, "task", None) is None:
            task = task.replace(add_bos=run.ends.bos, add_eos=run.ends.eos)
        else:
            task = task.given(facts_of(RunDir(run.path)))
        self._task = task.fitted(self._seq_len)

    def __call__(self, given: Given) -> list[Prediction]:
        """One dict for each record, in order."""
        records = [*self.records(given)]
        if not records:
            raise UserError("records: is empty; give at least one")
        return [*self.predictions(records)]

    def predictions(self, records: Iterable[Placed]) -> Iterator[Prediction]:
        """One dict for each record of `records`, in order."""
        windows = [window for each in records for window in self._windows(each)]
        for _, answer in self._answering(self._run.params, windows):
            yield answer

    def _windows(self, given: Placed) -> list[Record]:
        """The records that fit a row, of one that the task can encode."""
        try:
            return self._task.windows(given.record, self._run.tokenizer)
        except UserError as error:
            raise UserError(f"{given.place}: {error}") from None

    @cached_property
    def _answering(self) -> Answering:
        task, run, size = self._task, self._run, self.batch_size
        if isinstance(task, WrittenTask):
            return Written(task, run.writer(sampling_of(run.config, task, **self._writing)), size)
        if self._writing:
            raise UserError(
                f"{run.path}: answers of task {type_name(type(task))} are predicted, not written; "
                f"leave {few(self._writing)} out"
            )
        spec = task.row_spec(self._seq_len, run.tokenizer.pad_id)
        return Predictions(task, RowPredictions(run.program, run.tokenizer, spec, size))

    # ------------------------------------------------------------------------------------ records

    def records(self, given: Given) -> Iterator[Placed]:
        """Records that the task can encode, in order, with their places."""
        return (Placed(here, self._record(here, record)) for here, record in self._read(given))

    def _read(self, given: Given) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(place, record) in order."""
        if isinstance(given, str | Path):
            yield from self._read_file(str(given))
            return
        if isinstance(given, Mapping):
            raise UserError("records: is one record; give a list of records")
        columns = self._task.asked
        if self._as_in_files(given):
            yield from self._read_as_file(given)
            return
        for number, record in enumerate(given):
            here = f"record {number}"
            if isinstance(record, str):
                if len(columns) > 1:
                    raise UserError(f"{here}: is a text; give a dict of {few(columns)}")
                record = {columns[0]: record}
            if not isinstance(record, Mapping):
                kind = type(record).__name__
                raise UserError(f"{here}: has the type {kind}; give a dict of {few(columns)}")
            yield here, record

    def _as_in_files(self, given: Sequence[Any]) -> bool:
        """Whether records have the columns of some format, which makes them the task's."""
        first = next(iter(given), None)
        if not isinstance(first, Mapping):
            return False
        asked = self._task.asked_of(first)
        return not any({column, file_column(self._own, column)} & {*first} for column in asked)

    def _read_as_file(self, given: Sequence[Any]) -> Iterator[tuple[str, Record]]:
        """Records of a list as a file with a line for each, whose format is recognised."""
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/records.jsonl"
            try:
                lines = "".join(f"{json.dumps(dict(record))}\n" for record in given)
                write_atomic(Path(path), lines)
            except (TypeError, ValueError) as error:
                raise UserError(f"records: cannot be written as JSON ({error})") from None
            try:
                for number, (_, record) in enumerate(self._read_file(path)):
                    yield f"record {number}", record
            except UserError as error:
                raise UserError(str(error).replace(path, "records")) from None

    def _read_file(self, path: str) -> Iterator[tuple[str, Record]]:
        left_out: Counter[str] = Counter()
        found = detect([path], with_text=False, **own_settings(self._own))
        columns = self._task.asked_of(columns_of(found))
        source = unanswered_source(found, columns, self._own, self._task.column_names)
        self._report(found_in(source, columns))
        if has_a_record_a_line(source):
            self._report(f"{path}: each line is a record; write JSON lines for longer texts")
        yield from source.records(columns, left_out)
        if number := left_out.total():
            reasons = few(reason for reason, count in left_out.items() if count)
            raise UserError(f"{path}: {number} of its rows cannot be used ({reasons}); remove them")

    def _record(self, here: str, record: Mapping[str, Any]) -> Record:
        """A record that the task can encode."""
        asked = {}
        for column in self._task.asked_of(record):
            name = column if column in record else file_column(self._own, column)
            asked[column] = cell(record, name, here)
        for value in asked.values():
            if isinstance(value, str):
                check_characters(value, here)
        try:
            return self._task.unanswered(asked)
        except UserError as error:
            raise UserError(f"{here}: {error}") from None


def _task_of(config: RunConfig, data: DataConfig, name: Path) -> Task:
    """The task of a run's data, or else of its objective. Raises `UserError` without either."""
    task: Task | None = getattr(data, "task", None) or config.objective.own_task
    if task is None:
        if config.model.has_word_vectors:
            use = "use `jaxlm neighbours`, `analogy` or `similarity`"
        elif config.objective.why_silent(config.model) is None:
            use = "write text with `jaxlm generate`"
        else:
            use = "measure it with `jaxlm eval`"
        raise UserError(
            f"{name}: its data is running text, so it predicts nothing for records; load a run of "
            f"data.type records, or {use}"
        )
    return task
