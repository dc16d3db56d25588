"""The rows of a split for one pass over them."""

from __future__ import annotations

import itertools
import math

import numpy as np

from jaxlm.core.rows import RowSpec
from jaxlm.core.types import RowDataset


class OnePass:
    """Each row once, then padding, so that the last batch is full.

    With `spread`, index i reads row i * p mod n, where p is coprime to n and near 0.618 n. The
    first rows are then spread evenly over the split, so that a part is an estimate of the whole.
    """

    def __init__(self, rows: RowDataset, spec: RowSpec, *, spread: bool = False):
        self.rows, self.rows_per_epoch = rows, rows.rows_per_epoch
        self._padding = spec.padding()
        self.stride = (
            _coprime_near(0.618 * self.rows_per_epoch, self.rows_per_epoch) if spread else 1
        )

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if index < self.rows_per_epoch:
            return self.rows[index * self.stride % self.rows_per_epoch]
        return dict(self._padding)


def _coprime_near(target: float, n: int) -> int:
    """The smallest number from `target` up that shares no factor with n."""
    return next(p for p in itertools.count(max(1, round(target))) if math.gcd(p, n) == 1)
