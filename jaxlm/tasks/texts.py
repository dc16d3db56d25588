"""Rows of one text, or of a pair of texts, for the tasks that answer once for a row.

    [bos] text [eos]
    [bos] text [eos] text_b [eos]        token_types  0 0 0 0 1 1 1

The second text has token type 1, where the model has such types (Devlin et al. 2019). A text that
is longer than the row loses its end and keeps the eos; of a pair the longer one is cut first, token
by token. A tokenizer.json whose own template puts more than one separator between the texts
(RoBERTa) says so, and is followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.rows import Entry, RowSpec, text_rows
from jaxlm.tasks.base import NO_LIMIT, Arrays, LeftOut, Record, Task

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer

BETWEEN = "\x1f"  # the unit separator: between the texts of a pair, in its identity


@dataclass(frozen=True, kw_only=True)
class TextTask(Task, abstract=True):
    """The base of tasks that answer once for a text or a pair. `_target` gives the answer's arrays.

    A task whose text may be a pair has the field `text_b` as well.
    """

    text: str = field("text", "the column of the text")
    add_bos: bool = field(True, "begin each text with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each text with the tokenizer's eos, where it has one")

    @property
    def parts(self) -> tuple[str, ...]:
        """The columns of the texts: one, or two of a pair."""
        second = getattr(self, "text_b", None)
        return (self.text,) if second is None else (self.text, second)

    @property
    def augmented(self) -> tuple[str, ...]:
        return self.parts

    @property
    def marks(self) -> tuple[bool, bool]:
        return self.add_bos, self.add_eos

    @property
    def asked(self) -> tuple[str, ...]:
        return self.parts

    def identity(self, record: Record) -> str:
        return BETWEEN.join(record[column] for column in self.parts)

    def texts(self, record: Record) -> Iterable[str]:
        return tuple(record[column] for column in self.parts)

    def _texts_of(self, record: Record) -> Record:
        """The texts. Raises `LeftOut` where one is blank, `UserError` where one is not a text."""
        found = {column: self._text(record, column) for column in self.parts}
        if not all(text.strip() for text in found.values()):
            raise LeftOut("blank")
        return found

    def _text(self, record: Record, column: str) -> str:
        text = record[column]
        if not isinstance(text, str):
            setting = "text" if column == self.text else "text_b"
            raise UserError(
                f"column {column!r} holds a {type(text).__name__}, not text; set task.{setting} to "
                "the column of the text"
            )
        return text

    def unanswered(self, record: Record) -> Record:
        found = {column: self._text(record, column) for column in self.parts}
        for column, text in found.items():
            if not text.strip():
                raise UserError(f"column {column!r} is blank; give some text, or remove the record")
        return {**found, **self._placeholder()}

    def _placeholder(self) -> Record:
        """The answer's columns in a record whose answer is not known."""
        raise NotImplementedError

    def _target(self, record: Record) -> Arrays:
        """The arrays of the answer."""
        raise NotImplementedError

    def _target_rows(self) -> dict[str, Entry]:
        """The entries of a row that hold the answer."""
        raise NotImplementedError

    # ----------------------------------------------------------------------------- as rows

    def row_spec(self, seq_len: int, pad_id: int = 0) -> RowSpec:
        types = {"token_types": Entry(("T",))} if len(self.parts) > 1 else {}
        answer = {**self._target_rows(), "example_weights": Entry((), np.float32)}
        return RowSpec({**text_rows(seq_len, pad_id), **types, **answer}, T=seq_len)

    def encode(
        self,
        record: Record,
        tokenizer: Tokenizer,
        room: int,
        rng: np.random.RandomState | None = None,
    ) -> Arrays:
        answer = {**self._target(record), "example_weights": np.float32(1)}
        if len(self.parts) == 1:
            ids = self._ids(record, tokenizer)
            return {"tokens": self._cut(ids, tokenizer, room), **answer}
        tokens, types = self._pair(record, tokenizer, room)
        return {"tokens": tokens, "token_types": types, **answer}

    def length(self, record: Record, tokenizer: Tokenizer) -> int:
        if len(self.parts) == 1:
            return len(self._ids(record, tokenizer))
        marks = sum(map(len, self._marks(tokenizer)))
        return marks + sum(len(tokenizer.encode(record[column])) for column in self.parts)

    def authors(
        self, record: Record, tokenizer: Tokenizer, room: int = NO_LIMIT
    ) -> list[str] | None:
        """The column of each token."""
        bos, between, eos = self._marks(tokenizer)
        sizes = [len(tokenizer.encode(record[column])) for column in self.parts]
        marks = [len(bos), *[len(between)] * (len(sizes) - 1), len(eos)]
        left = max(0, room - sum(marks))
        a, *more = sizes
        sizes = [*longest_first(a, more[0], left)] if more else [min(a, left)]
        found = ["template"] * marks[0]
        for column, size, after in zip(self.parts, sizes, marks[1:], strict=True):
            found += [column] * size + ["template"] * after
        return found

    def painted(self, row: Mapping[str, Any]) -> np.ndarray | None:
        return None

    def _ids(self, record: Record, tokenizer: Tokenizer) -> list[int]:
        bos, _, eos = self._marks(tokenizer)
        return [*bos, *tokenizer.encode(record[self.text]), *eos]

    def _marks(self, tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int]]:
        """The special tokens before the texts, between and after them."""
        return special_tokens(tokenizer, self.add_bos, self.add_eos)

    def _cut(self, ids: list[int], tokenizer: Tokenizer, room: int) -> np.ndarray:
        cut = np.array(ids[:room], np.int32)
        if len(ids) > room and self.add_eos and tokenizer.eos_id is not None:
            cut[-1] = tokenizer.eos_id
        return cut

    def _pair(
        self, record: Record, tokenizer: Tokenizer, room: int
    ) -> tuple[np.ndarray, np.ndarray]:
        bos, between, eos = self._marks(tokenizer)
        a, b = (tokenizer.encode(record[column]) for column in self.parts)
        left = max(0, room - len(bos) - len(between) - len(eos))
        sizes = longest_first(len(a), len(b), left)
        first, second = [*bos, *a[: sizes[0]], *between], [*b[: sizes[1]], *eos]
        ids = np.array([*first, *second][:room], np.int32)
        return ids, np.repeat([0, 1], [len(first), len(second)])[:room].astype(np.int32)


def special_tokens(
    tokenizer: Tokenizer, bos: bool = True, eos: bool = True
) -> tuple[list[int], list[int], list[int]]:
    """The special tokens before a pair, between its texts, and after it."""
    first = [tokenizer.bos_id] if bos and tokenizer.bos_id is not None else []
    last = [tokenizer.eos_id] if eos and tokenizer.eos_id is not None else []
    return first, last * getattr(tokenizer, "separators", 1), last


def longest_first(a: int, b: int, room: int) -> tuple[int, int]:
    """The sizes of two texts after the longer one has lost its last token until both fit."""
    while a + b > room:
        a, b = (a - 1, b) if a > b else (a, b - 1)
    return a, b


def number(value: Any, column: str) -> float | None:
    """A column's value as a number; None where it is missing. Raises `UserError`."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise UserError(f"column {column!r} holds a {type(value).__name__}, not a number")
    try:
        found = float(value)
    except ValueError:
        raise UserError(
            f"column {column!r} holds {value[:40]!r}, not a number; correct the row, or set "  # type: ignore[index]
            "task.label to the column of numbers"
        ) from None
    return found if math.isfinite(found) else None


def fitting(max_length: int | None, seq_len: int) -> int:
    """The tokens of a window, in rows of `seq_len`. Raises `UserError` for longer windows."""
    if max_length is not None and max_length > seq_len:
        raise UserError(
            f"task.max_length: {max_length} tokens do not fit rows of data.seq_len {seq_len}; "
            "lower it, or raise data.seq_len"
        )
    return max_length or seq_len
