"""Answers to prompts, each of which is desirable or not.

    data:
      type: records
      # {"prompt": "2+2=", "completion": "4", "label": true}
      source: {type: files, files: answers.jsonl}
      task: {type: kto}

Rows are those of `jaxlm.tasks.prompt_completion`, with `desirable`: 1 at each token of an answer
that is, 2 of one that is not, 0 at padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.tasks.base import Arrays, LeftOut, Record
from jaxlm.tasks.conversations import texts_in
from jaxlm.tasks.prompt_completion import PromptCompletion

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

DESIRABLE, UNDESIRABLE = 1, 2  # values of `desirable`


@dataclass(frozen=True, kw_only=True)
class KTO(PromptCompletion):
    """A prompt with an answer, and whether that is desirable."""

    label_column: str = field("label", "the column that says whether the answer is desirable")

    def without(self, column: str) -> str:
        return ""

    @property
    def columns(self) -> tuple[str, ...]:
        return (*super().columns, self.label_column)

    def expand(self, record: Record) -> list[Record]:
        label = record[self.label_column]
        if not isinstance(label, bool):
            raise UserError(
                f"column {shown(self.label_column)} holds {label!r:.40}; write true or false"
            )
        try:
            (made,) = super().expand(record)
        except LeftOut:
            column = self.completion_column
            raise UserError(f"column {column!r} is empty; fill it in or remove the row") from None
        return [{**made, self.label_column: label}]

    def texts(self, record: Record) -> Iterable[str]:
        return texts_in(record, self.parts)

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        rows = super().row_spec(seq_len, pad_id)
        return RowSpec({**rows, "desirable": Entry(("T",))}, **rows.sizes)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        made = super().encode(record, tokenizer, room, rng)
        value = DESIRABLE if record[self.label_column] else UNDESIRABLE
        return {**made, "desirable": np.full(len(made["tokens"]), value, np.int32)}

    def unanswered(self, record: Record) -> Record:
        return {**super().unanswered(record), self.label_column: True}

    def show(self, row: Mapping[str, Any]) -> str:
        kinds = np.asarray(row["desirable"])
        first = [k for k, before in zip(kinds, [0, *kinds[:-1]], strict=True) if k != before and k]
        return ", ".join("desirable" if k == DESIRABLE else "undesirable" for k in first)
