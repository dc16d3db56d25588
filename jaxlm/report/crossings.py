"""Where one model becomes better than another, by seconds, FLOPs and the like.

    Series("LSTM", xs=(10, 60), ys=(2.9, 2.3))
    Series("trigram", xs=(4,), ys=(2.97,), lasts=True)         # counted: it stays what it is
    crossings([...], better="lower")    # [Crossing(x=11.9, y=2.87, winner="LSTM", loser="trigram")]

Between two points of a series, the value is linear in the logarithm of x. Before its first point a
series has no value, and after its last one only where it `lasts`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Series:
    """The values of a model; `xs` are above 0 and increase."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    lasts: bool = False

    @property
    def end(self) -> float:
        return math.inf if self.lasts else self.xs[-1]

    def at(self, x: float) -> float:
        """Its value at an x from its first point to its end."""
        if x >= self.xs[-1]:
            return self.ys[-1]
        after = next(n for n, other in enumerate(self.xs) if other > x)
        low, high = self.xs[after - 1], self.xs[after]
        share = math.log(x / low) / math.log(high / low)
        return self.ys[after - 1] + share * (self.ys[after] - self.ys[after - 1])


@dataclass(frozen=True)
class Crossing:
    """From x on, `winner` is better than `loser`; both have value y there."""

    x: float
    y: float
    winner: str
    loser: str


def crossings(series: Sequence[Series], better: Literal["lower", "higher"]) -> list[Crossing]:
    """Every crossing of two series, by x."""
    found = []
    for number, a in enumerate(series):
        for b in series[number + 1 :]:
            found += _of_two(a, b, better)
    return sorted(found, key=lambda crossing: crossing.x)


def _of_two(a: Series, b: Series, better: str) -> list[Crossing]:
    begin, end = max(a.xs[0], b.xs[0]), min(a.end, b.end)
    if begin >= end:
        return []
    inner = {x for x in (*a.xs, *b.xs) if begin < x < end}
    grid = sorted({begin, *inner, *([end] if math.isfinite(end) else [])})
    found: list[Crossing] = []
    before: tuple[float, float] | None = None  # the last x where the two differ, and by how much
    for x in grid:
        gap = a.at(x) - b.at(x)
        if gap == 0:
            continue
        if before is not None and (gap > 0) != (before[1] > 0):
            share = before[1] / (before[1] - gap)
            at = before[0] * (x / before[0]) ** share
            a_wins = (gap < 0) == (better == "lower")
            winner, loser = (a, b) if a_wins else (b, a)
            found.append(Crossing(at, a.at(at), winner.name, loser.name))
        before = (x, gap)
    return found
