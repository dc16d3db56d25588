"""The records that a reward model rates: answers to prompts, alone or in pairs.

    Rated(pairs=Preference()).windows({"prompt": "2+2=", "chosen": "4", "rejected": "5"})

A record is a pair of `jaxlm.tasks.preference`, whose sides are a row each, or a prompt with its
completion, which is one row. So a side of a pair has the room of a whole row here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.core.rows import RowSpec
from jaxlm.tasks.base import Arrays, LeftOut, Record, Task
from jaxlm.tasks.preference import CHOSEN, Preference

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

COMPLETION = "completion"
SIDE = "side"  # in a window: the column of the record that its completion was


@dataclass(frozen=True, kw_only=True)
class Rated(Task):
    """A number for each answer, and of two which is preferred."""

    pairs: Preference = field(REQUIRED, "the task of the pairs that the model was trained on")

    @property
    def column_names(self) -> dict[str, str]:
        return self.pairs.column_names

    @property
    def asked(self) -> tuple[str, ...]:
        return self.pairs.columns

    def asked_of(self, columns: Iterable[str]) -> tuple[str, ...]:
        known = {*columns}
        alone = COMPLETION in known and not known & {*self._sides}
        return (self.pairs.prompt_column, COMPLETION) if alone else self.asked

    @property
    def _sides(self) -> tuple[str, str]:
        return self.pairs.chosen_column, self.pairs.rejected_column

    def unanswered(self, record: Record) -> Record:
        for column in record.keys() - {self.pairs.prompt_column}:
            try:
                made = record[column] and self.pairs.one.expand(self.pairs.side(record, column))
            except LeftOut:
                made = []
            if not made:
                raise UserError(f"column {column!r} is empty; fill it in or remove the row")
        return record

    def windows(self, record: Record, tokenizer: Tokenizer) -> list[Record]:
        names = self._sides if COMPLETION not in record else (COMPLETION,)
        return [{**self.pairs.side(record, name), SIDE: name} for name in names]

    def begins(self, window: Record) -> bool:
        return bool(window[SIDE] != self.pairs.rejected_column)

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        return self.pairs.row_spec(seq_len, pad_id)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        made = self.pairs.one.encode(record, tokenizer, room, rng)
        return {**made, "sides": np.full(len(made["tokens"]), CHOSEN, np.int32)}

    def answer(
        self,
        windows: Sequence[Record],
        arrays: Sequence[Mapping[str, np.ndarray]],
        tokenizer: Tokenizer,
    ) -> dict[str, Any]:
        """{"score": a number}; of a pair {"preferred": "chosen", "scores": {"chosen": a number,
        "rejected": another}}, by the names of its columns; None is preferred of equal scores.

        arrays: `rewards` [S] of the answers in a row, of which there is one.
        """
        scores = [float(found["rewards"][0]) for found in arrays]
        if len(scores) == 1:
            return {"score": scores[0]}
        names = [str(window[SIDE]) for window in windows]
        better = None if scores[0] == scores[1] else names[int(np.argmax(scores))]
        return {"preferred": better, "scores": dict(zip(names, scores, strict=True))}
