"""Going back to before a divergence, and leaving out the batches that did it.

After `after` steps in a row that were not applied, the run returns to a checkpoint before the last
`before` steps in front of them, and trains on without the batches of all these steps (Chowdhery et
al. 2022, arXiv:2204.02311, section 5.1, does so by hand). Step t takes the t-th batch that is not
skipped, so the order of the data is a function of seed, step and the record:

    record = [{"step": 9, "batches": [5, 6, 7, 8]}]     # seen at step 9; batches count from 0
    place(5, skipped(record))                           # 9: after 5 steps comes batch 9

A record follows from the run before it: which checkpoint is left to return to changes nothing, and
a run that is killed before its next save comes to the same record again. It is kept in each
checkpoint (data.json), under its checksums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any


def skipped(record: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """The batches that a record leaves out."""
    return frozenset(batch for entry in record for batch in entry["batches"])


def place(step: int, gone: Collection[int]) -> int:
    """The batch, counted from 0, that comes after `step` steps."""
    for batch in sorted(gone):
        step += batch <= step
    return step


def entry(step: int, first: int, gone: Collection[int]) -> dict[str, Any]:
    """The entry recorded at `step` where the batches of the steps from `first` on are skipped."""
    return {"step": step, "batches": [place(s - 1, gone) for s in range(first, step + 1)]}
