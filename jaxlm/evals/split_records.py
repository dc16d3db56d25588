"""The records of a prepared split."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.tasks.base import Record, Records


def records_of(prepared: Any, split: str) -> Records:
    """The records of a split, as they are stored. Raises `UserError` for a split of other rows."""
    rows = getattr(prepared.splits[split], "rows", None)
    if rows is None:
        raise UserError(f"split: {split!r} has no records of its own; name a part of it")
    return rows.records


def whole_records(task: Any, windows: Records) -> list[Record]:
    """The records that the windows of a split are made of."""
    found: list[list[Record]] = []
    for window in windows:
        if task.begins(window) or not found:
            found.append([])
        found[-1].append(window)
    return [task.whole(each) for each in found]


def spread(size: int, most: int) -> np.ndarray:
    """The numbers of at most `most` of `size` records, evenly spread, in order."""
    return np.linspace(0, size - 1, min(most, size)).astype(np.int64)
