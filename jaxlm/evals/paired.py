"""Two systems on the same records: a paired bootstrap, and labels that one of them saves.

    p, draws = bootstrap(task.score, scratch, pretrained, records)
    needed([100, 300, 1000], [0.60, 0.66, 0.72], 0.70)      # 669: where the curve reaches 0.70

Each draw takes as many seeds and as many records as there are, with replacement, the same ones for
both systems (Koehn 2004). p is the share of draws in which the second system is not the better one,
with one draw more in both numbers, so that it is never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlm.core.measures import Better, Measure

DRAWS, SLOW_DRAWS = 10_000, 300  # of a mean over records; of a measure of the whole corpus
CHUNK, CELLS = 500, 10_000_000  # draws made in one piece, and numbers of records in it

Score = Callable[[Sequence[Any], Sequence[Any]], list[Measure]]


def bootstrap(
    score: Score,
    first: Sequence[Sequence[Any]],
    second: Sequence[Sequence[Any]],
    true: Sequence[Any],
) -> tuple[float, int]:
    """(p, draws) that `second` is not better than `first` in the main measure of `score`.

    first, second: predictions [seeds][records], seed i of both of equal data.
    """
    rng = np.random.default_rng(0)
    main = score(first[0], true)[0]
    sign = -1.0 if main.better == "lower" else 1.0
    each = [per_record(score, said, true) for said in (*first, *second)]
    if all(values is not None for values in each):
        a, b = np.split(np.array(each, np.float64), 2)
        gains = _mean_gains(sign * (b - a), rng)
    else:
        gains = _corpus_gains(score, first, second, true, sign, rng)
    return (1 + int((gains <= 0).sum())) / (1 + len(gains)), len(gains)


def per_record(score: Score, said: Sequence[Any], true: Sequence[Any]) -> np.ndarray | None:
    """The main measure of each record [n], where that of the corpus is their mean; else None."""
    each = np.array([score([p], [r])[0].value for p, r in zip(said, true, strict=True)])
    whole = score(said, true)[0].value
    return each if math.isclose(float(each.mean()), whole, abs_tol=1e-9) else None


def _mean_gains(gains: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean gain of each draw, of those of seeds and records [S, n]."""
    seeds, size = gains.shape
    found = []
    chunk = max(1, min(CHUNK, CELLS // size))
    for begin in range(0, DRAWS, chunk):
        draws = min(chunk, DRAWS - begin)
        by_seed = rng.multinomial(seeds, [1 / seeds] * seeds, draws) / seeds
        records = rng.integers(0, size, (draws, size))
        mixed = by_seed @ gains  # [draws, n]
        found.append(np.take_along_axis(mixed, records, axis=1).mean(1))
    return np.concatenate(found)


def _corpus_gains(
    score: Score,
    first: Sequence[Sequence[Any]],
    second: Sequence[Sequence[Any]],
    true: Sequence[Any],
    sign: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """The mean gain of each draw, of a measure of the whole corpus."""
    found = []
    for _ in range(SLOW_DRAWS):
        records = rng.integers(0, len(true), len(true))
        asked = [true[i] for i in records]
        seeds, times = np.unique(rng.integers(len(first), size=len(first)), return_counts=True)
        gains = []
        for seed in seeds:
            a, b = (score([s[seed][i] for i in records], asked)[0].value for s in (first, second))
            gains.append(sign * (b - a))
        found.append(np.average(gains, weights=times))
    return np.array(found)


def needed(
    labels: Sequence[int], values: Sequence[float], target: float, better: Better = "higher"
) -> float | None:
    """The number of labels at which a curve reaches a value; None: it does not.

    The curve is linear in the logarithm of the labels between its points, and where it falls it is
    taken as level. A value that its first point has reached gives the first number.
    """
    sign = -1.0 if better == "lower" else 1.0
    x, y = np.log(labels), np.maximum.accumulate(sign * np.array(values, np.float64))
    if y[0] >= sign * target:
        return float(labels[0])
    if y[-1] < sign * target:
        return None
    n = int(np.argmax(y >= sign * target))
    share = (sign * target - y[n - 1]) / (y[n] - y[n - 1])
    return float(np.exp(x[n - 1] + share * (x[n] - x[n - 1])))
