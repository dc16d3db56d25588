"""Rows of records: a record is augmented, encoded and padded when its row is read.

    rows = EncodedRows(records, task, tokenizer, spec)         # a record a row
    packed = PackedRecords.plan(rows, lengths)                 # several records a row
    Drawn(packed, seed=0, shuffle=True)[10**9]                 # as quick as [0]

A packed row numbers its records from 1 (`segment_ids`), and `positions` begin at 0 in each; every
token keeps the loss weight that the task gave it. Records are placed by best-fit decreasing, as
documents are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.rows import RowSpec
from jaxlm.core.types import Tokenizer
from jaxlm.data.augment.base import Augment
from jaxlm.data.rows.order import Row, place_rng, shuffled_index
from jaxlm.data.rows.packing import best_fit_blocks
from jaxlm.tasks.base import Arrays, Records, Task

Rng = np.random.RandomState | None
TEXTS = {"T": "", "S": "source_"}  # dims of tokens, and what their keys begin with
TOKENS = [(letter,) for letter in TEXTS]


class RecordRows(Protocol):
    """A finite set of rows, whose draws come from a given generator."""

    def __len__(self) -> int: ...

    def row(self, index: int, rng: Rng = None) -> Row: ...


@dataclass(frozen=True)
class EncodedRows:
    """Record i as row i. `task` is resolved; `augment` applies where a generator is given."""

    records: Records
    task: Task
    tokenizer: Tokenizer
    spec: RowSpec
    augment: tuple[Augment, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def numbers(self, index: int) -> list[int]:
        """The records of row `index`."""
        return [index]

    def row(self, index: int, rng: Rng = None) -> Row:
        return lay_out([self.encoded(index, rng)], self.spec, index)

    def encoded(self, index: int, rng: Rng = None) -> Arrays:
        """The arrays of record `index`, without padding."""
        record, room = self.records[index], self.spec.sizes["T"]
        if rng is None:
            return self.task.encode(record, self.tokenizer, room)
        for change in self.augment:
            record = change.record(record, self.task, rng)
        arrays = self.task.encode(record, self.tokenizer, room, rng)
        for change in self.augment:
            arrays = dict(change.arrays(arrays, self.task, self.tokenizer, self.spec, rng))
        return arrays


@dataclass(frozen=True)
class PackedRecords:
    """Several records a row: row r holds the records order[first[r] : first[r + 1]]."""

    rows: EncodedRows
    order: np.ndarray = field(repr=False)  # [records] int64
    first: np.ndarray = field(repr=False)  # [rows + 1] int64

    @classmethod
    def plan(cls, rows: EncodedRows, lengths: np.ndarray) -> PackedRecords:
        """Places records of these lengths [n] in rows; a longer one than a row is cut by `encode`
        and has a row of its own.
        """
        room = rows.spec.sizes["T"]
        order, first = best_fit_blocks(np.minimum(lengths, room), room)
        return cls(rows, order, first)

    def __len__(self) -> int:
        return len(self.first) - 1

    def numbers(self, index: int) -> list[int]:
        """The records of row `index`."""
        return self.order[self.first[index] : self.first[index + 1]].tolist()

    def row(self, index: int, rng: Rng = None) -> Row:
        return lay_out(
            [self.rows.encoded(i, rng) for i in self.numbers(index)], self.rows.spec, index
        )


@dataclass(frozen=True)
class Drawn:
    """Rows in an order, endless, each with the random numbers of its place."""

    rows: RecordRows
    seed: int
    shuffle: bool
    draws: bool  # false: nothing is drawn (validation)

    @property
    def rows_per_epoch(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        size = len(self.rows)
        row = shuffled_index(index, size, self.seed) if self.shuffle else index % size
        return self.rows.row(row, place_rng(self.seed, index) if self.draws else None)


def lay_out(examples: Sequence[Arrays], spec: RowSpec, identity: int) -> Row:
    """Encoded records side by side in one row, with their segment ids and positions, padded."""
    row = spec.padding(identity)
    for key, value in examples[0].items():
        if spec[key].dims[:1] not in TOKENS:
            row[key] = np.asarray(value, spec[key].dtype)[()]
    for letter, prefix in TEXTS.items():
        keys = spec.with_dim(letter)
        place = 0
        for segment, example in enumerate(examples if keys else (), start=1):
            size = _size(example, keys, spec.sizes[letter] - place)
            span = slice(place, place + size)
            for key in keys:
                if key in example:
                    row[key][span] = example[key]
            row[f"{prefix}segment_ids"][span] = segment
            row[f"{prefix}positions"][span] = np.arange(size)
            place += size
    return row


def _size(example: Arrays, keys: Sequence[str], room: int) -> int:
    sizes = {key: len(example[key]) for key in keys if key in example}
    if len({*sizes.values()}) != 1 or max(sizes.values()) > room:
        raise UserError(
            f"data.task: encode gives {sizes} tokens of one record for a row that has room for "
            f"{room}; let it give as many of each, and no more than it may"
        )
    return next(iter(sizes.values()))
