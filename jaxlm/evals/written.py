"""Answers to records that a model writes, greedily or by beams.

    written = Written(task, writer, batch_size=32)
    for windows, answer in written(params, records): ...    # {"text": "...", "score": -0.4}

Prompts of about equal length are in one batch, so that a batch of short ones ends early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from jaxlm.core.config import UserError, type_name
from jaxlm.core.evaluator import Compiling
from jaxlm.evals.predictions import Answer
from jaxlm.generate import Sampling, Text, Writer, ends_of, ids_of, writer_of
from jaxlm.run import RunConfig
from jaxlm.tasks.base import Record
from jaxlm.tasks.written import WrittenTask
from jaxlm.training.session import Session


class Writing(TypedDict, total=False):
    """Options of `sampling_of`."""

    num_beams: int
    length_penalty: float
    max_tokens: int


@dataclass(frozen=True)
class Written:
    """The answers that a writer's model writes; as `jaxlm.evals.predictions.Answering`."""

    task: WrittenTask
    writer: Writer
    batch_size: int

    def __call__(
        self,
        params: Any,
        windows: Sequence[Record],
        *,
        on_batch: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> Iterator[Answer]:
        prompts = [self.task.prompt(record) for record in windows]
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        found: dict[int, Text] = {}
        for start in range(0, len(order), self.batch_size):
            some = order[start : start + self.batch_size]
            missing = self.batch_size - len(some) if start else 0
            full = [prompts[i] for i in some + some[-1:] * missing]  # of one compiled size
            written = self.writer.with_scores(params, full, on_part=on_batch, compiling=compiling)
            found |= dict(zip(some, written, strict=False))
        for number, record in enumerate(windows):
            arrays = {name: np.array(getattr(found[number], name)) for name in ("text", "score")}
            yield [record], self.task.answer([record], [arrays], self.writer.tokenizer)

    def batches(self, rows: int) -> int:
        return math.ceil(rows / self.batch_size)


def sampling_of(
    config: RunConfig,
    task: WrittenTask,
    *,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    max_tokens: int | None = None,
) -> Sampling:
    """The sampling for the answers of a run's task: nothing is drawn, and penalties and ends are
    those of `sample:`.

    max_tokens: None: as the task, or else `sample.max_tokens`, says.
    """
    if max_tokens is None and config.data is not None:
        max_tokens = task.longest_answer(config.data.row_length)
    return config.sample.asked(
        {
            "max_tokens": max_tokens or config.sample.max_tokens,
            "temperature": 0.0,
            "num_beams": num_beams,
            "length_penalty": length_penalty,
        }
    )


def session_writer(session: Session, sampling: Sampling) -> Writer:
    """The writer of texts with a session's model."""
    config, prepared = session.config, session.prepared
    ends = ends_of(config.data, prepared.manifest, prepared.tokenizer)
    ids = ids_of(prepared.tokenizer, config.sample.eos_ids, ends=ends)
    return writer_of(session.program, sampling, prepared.tokenizer, ids, ends)


def check_writes(config: RunConfig, task: WrittenTask) -> None:
    """Raises `UserError` for a model that writes no answers."""
    if why := config.objective.why_silent(config.model):
        name, objective = type_name(type(task)), type_name(type(config.objective))
        raise UserError(
            f"type: task measures what a model writes, as task {name} asks, and a model of "
            f"objective {objective} {why}; use type: loss"
        )
