"""Several rows in one numpy operation, where their dataset can; the same rows as one by one.

    batch_of(rows, np.array([7, 3]))["tokens"]        # [2, T + 1]: rows[7] and rows[3]

A dataset that gathers has a method `batch` (indices [n] int64 -> {key: [n, ...]}); of any other one
the rows are read in turn and stacked. A transform of rows is the same: an `Alike` takes a batch as
it takes a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxlm.core.types import RowDataset

Row = dict[str, Any]
Transform = Callable[[Mapping[str, Any], int], Row]


@dataclass(frozen=True)
class Alike:
    """A transform that only works along the last dimension, so a batch of rows is as good as one.

    function: a row, or a batch of rows, of the data -> that of the batch. It does not depend on the
    rows' place.
    """

    function: Callable[[Mapping[str, Any]], Row]

    def __call__(self, row: Mapping[str, Any], index: int) -> Row:
        return self.function(row)


def batch_of(rows: RowDataset | Any, indices: np.ndarray) -> Row:
    """The rows `indices` [n] of a dataset, one array a key with a leading dimension of rows."""
    gather = getattr(rows, "batch", None)
    if gather is not None:
        return gather(indices)
    return stack([rows[index] for index in indices.tolist()])


def transformed(transform: Transform, rows: RowDataset, indices: np.ndarray) -> Row:
    """The rows `indices` after a transform, which keeps "id"; the arrays are contiguous."""
    if isinstance(transform, Alike):
        raw = batch_of(rows, indices)
        made = {**transform.function(raw), "id": raw["id"]}
        return {key: np.ascontiguousarray(value) for key, value in made.items()}
    return stack([transformed_row(transform, rows, index) for index in indices.tolist()])


def transformed_row(transform: Transform, rows: RowDataset, index: int) -> Row:
    """One row after a transform."""
    raw = rows[index]
    return {**transform(raw, index), "id": raw["id"]}


def stack(rows: Sequence[Row]) -> Row:
    """One array a key, with a leading dimension of rows."""
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def joined(parts: Sequence[tuple[np.ndarray, Row]], size: int) -> Row:
    """One batch of `size` rows from parts: (places in the batch, their rows) each."""
    found: Row = {}
    for places, part in parts:
        for key, value in part.items():
            if key not in found:
                found[key] = np.empty((size, *value.shape[1:]), value.dtype)
            found[key][places] = value
    return found


def numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(owner, nth) of items that are laid end to end: `counts[i]` of owner i, numbered from 0."""
    owner = np.arange(len(counts)).repeat(counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
