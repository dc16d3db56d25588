"""A task of tokens: the answer is learnt after its prompt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlm.core.config import field
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.tasks.base import Arrays, Record, Task


@dataclass(frozen=True, kw_only=True)
class Continuation(Task):
    """Write the answer after the prompt."""

    given_text: str = field("question", "the column of what is given")
    answer: str = field("answer", "the column of what is learnt")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.given_text, self.answer

    def identity(self, record: Record) -> str:
        return record[self.given_text]

    def texts(self, record: Record) -> Iterable[str]:
        return record[self.given_text], record[self.answer]

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        weights = {"loss_weights": Entry(("T",), np.float32)}
        return RowSpec({**text_rows(seq_len + 1, pad_id), **weights}, T=seq_len + 1)

    def encode(self, record: Record, tokenizer: Any, room: int, rng: Any = None) -> Arrays:
        given = tokenizer.encode(record[self.given_text])
        asked = [*tokenizer.encode(record[self.answer]), tokenizer.eos_id]
        weights = np.repeat([0.0, 1.0], [len(given), len(asked)])
        return {"tokens": [*given, *asked][:room], "loss_weights": weights[:room]}
