"""Charts of several models over a quantity in powers of ten: seconds, FLOPs, parameters.

    log_chart("Bits per character by seconds", [Series(...)], found, unit="s", shown=".2f")

The SVG is stretched to any width, as those of `jaxlm.report.charts`; points, marks and all text are
HTML at positions in per cent. A point says its values under the pointer. A series that `lasts` is
drawn on as a dashed line; a crossing is marked by a ring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from jaxlm.core.numbers import human
from jaxlm.report.charts import SIZE, nice_ticks, tick_labels
from jaxlm.report.crossings import Crossing, Series
from jaxlm.report.html import render

if TYPE_CHECKING:
    from markupsafe import Markup

STYLES = 8  # colours in style.css: .s0 to .s7


def log_chart(
    title: str,
    series: Sequence[Series],
    marks: Sequence[Crossing] = (),
    *,
    label: Callable[[float], str] = human,
    value: Callable[[float], str] = "{:.3f}".format,
    styles: Mapping[str, int] | None = None,
    note: str = "",
) -> Markup | str:
    """A figure; "" where no series has a point. label, value: an x and a y for people. styles: the
    numbers of the series' colours; by default in order.
    """
    xs = [x for one in series for x in one.xs]
    if not xs:
        return ""
    ys = [y for one in series for y in one.ys]
    first, last = _frame(min(xs), max(xs))
    ticks = nice_ticks(min(ys), max(ys), 5)
    low, high = ticks[0], ticks[-1]
    colours = styles or {one.name: number for number, one in enumerate(series)}

    def across(x: float) -> float:
        return math.log(x / first) / math.log(last / first)

    def down(y: float) -> float:
        return (high - y) / (high - low)

    paths, dots = [], []
    for one in series:
        css = f"s{colours[one.name] % STYLES}"
        places = [(across(x), down(y)) for x, y in zip(one.xs, one.ys, strict=True)]
        paths.append((f"line {css}", _path(places)))
        if one.lasts:
            paths.append((f"line level {css}", _path([places[-1], (1.0, places[-1][1])])))
        for x, y, (left, top) in zip(one.xs, one.ys, places, strict=True):
            about = f"{one.name}: {value(y)} at {label(x)}"
            dots.append((css, f"{left:.2%}", f"{top:.2%}", about))
    rings = [
        (f"{across(c.x):.2%}", f"{down(c.y):.2%}", f"{c.winner} passes {c.loser} at {label(c.x)}")
        for c in marks
    ]
    return render(
        "log_chart.html",
        title=title,
        names=[(one.name, f"s{colours[one.name] % STYLES}") for one in series],
        size=SIZE,
        spoken=f"{title}: " + "; ".join(about for *_, about in dots),
        grid="".join(f"M0 {down(t) * SIZE:.1f}H{SIZE}" for t in ticks),
        paths=paths,
        dots=dots,
        rings=rings,
        ys=[(f"{down(t):.2%}", n) for t, n in zip(ticks, tick_labels(ticks), strict=True)],
        xs=[(f"{across(x):.2%}", label(x), across(x) > 0.97) for x in _ticks(first, last)],
        note=note,
    )


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "".join(
        f"{'L' if n else 'M'}{left * SIZE:.1f} {top * SIZE:.1f}"
        for n, (left, top) in enumerate(places)
    )


def _frame(low: float, high: float) -> tuple[float, float]:
    """The ends of the axis: a fifth of a power of ten beyond the points."""
    return low / 10**0.2, high * 10**0.2


def _ticks(first: float, last: float) -> list[float]:
    """1, 3 and 10 times powers of ten; powers alone where these are many, and more parts of them
    where these are few.
    """
    powers = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    usual = (1, 3) if len(powers) <= 5 else (1,)
    for parts in (usual, (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        every = [part * 10.0**power for power in powers for part in parts]
        found = [x for x in every if first <= x <= last]
        if len(found) > 1:
            break
    return found
