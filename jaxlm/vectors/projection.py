"""Word vectors in two dimensions, by principal components.

found = project(table, ["king", "queen", "man", "woman"])
found.places                # [4, 2], around 0
found.share                 # of the variance that the two dimensions have
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxlm.vectors.table import WordVectors


@dataclass(frozen=True)
class Projection:
    """Words and their places; the first axis has the largest variance."""

    words: list[str]
    places: np.ndarray  # [n, 2]
    share: float


def project(table: WordVectors, words: Sequence[str]) -> Projection:
    """The unit vectors of at least two of the table's words on their two principal axes.

    The sign of an axis is free: its largest coordinate is positive.
    """
    rows = table.unit[[table.index[word] for word in words]].astype(np.float64)
    centred = rows - rows.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(words), 2))
    found = left[:, :2] * sizes[:2]
    places[:, : found.shape[1]] = found
    largest = places[np.abs(places).argmax(0), [0, 1]]
    places *= np.where(largest < 0, -1.0, 1.0)
    whole = (sizes**2).sum()
    return Projection(list(words), places, float((sizes[:2] ** 2).sum() / whole) if whole else 0.0)
