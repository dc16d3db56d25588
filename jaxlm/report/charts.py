"""Line charts as inline SVG that stretch to any width, print, and follow the page's colours.

Why not a library: the page must have no foreign code and stay under 2 MB, which excludes plotting
libraries for the web, and matplotlib's SVG does not reflow on a phone or follow a dark theme. The
curve is an SVG stretched without keeping its aspect ratio (strokes do not scale); all text is HTML
with positions in per cent, so that it is readable at any width.

    line_chart("Loss", [Line("train", "a", steps, values, smooth=True)], marks={"mark": [400]})
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxlm.report.html import render

if TYPE_CHECKING:
    from markupsafe import Markup

MAX_POINTS = 1000
SIZE = 1000  # the SVG's own units, in both directions


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series; `style` is a CSS class, `smooth` draws a moving mean over a faint raw curve.

    `joined` is false for points that are not comparable with each other: dots without a line.
    """

    name: str
    style: str
    steps: Sequence[int]
    values: Sequence[float]
    smooth: bool = False
    joined: bool = True


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    marks: Mapping[str, Sequence[int]] | None = None,
    from_zero: bool = False,
    wide: bool = False,
    note: str = "",
    unit: str = "step",
) -> Markup | str:
    """A figure with axes, a legend and a readout under the pointer; "" if there is nothing to draw.

    `marks` are {CSS class: steps to draw a dashed line at}. Values that are not finite break the
    curve and are counted in the note, to which `note` (text) is added. unit: one on the x axis.
    """
    lines = [_thinned(line) for line in lines if any(map(math.isfinite, line.values))]
    if not lines:
        return ""
    last = max(line.steps[-1] for line in lines)
    first = min(0, *(line.steps[0] for line in lines))
    low, high, hidden = _frame(lines, from_zero)
    ticks = nice_ticks(low, high, 5)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def x(step: float) -> float:
        return (step - first) / max(last - first, 1) * SIZE

    def y(value: float) -> float:
        return SIZE - (value - low) / (high - low) * SIZE

    paths = [
        (css, path)
        for css, at in (marks or {}).items()
        if (path := "".join(f"M{x(s):.1f} 0V{SIZE}" for s in at if first <= s <= last))
    ]
    x_ticks = [t for t in nice_ticks(first, last, 6) if first <= t <= last]
    labels = zip(x_ticks, tick_labels(x_ticks), strict=True)
    data = [{"name": n.name, "x": list(n.steps), "y": _plain(n.values)} for n in lines]
    return render(
        "chart.html",
        title=title,
        lines=lines,
        wide=wide,
        unit=unit,
        data=json.dumps(data),
        first=first,
        last=last,
        size=SIZE,
        spoken=_spoken(title, lines),
        grid="".join(f"M0 {y(t):.1f}H{SIZE}" for t in ticks),
        paths=[*paths, *(curve for line in lines for curve in _curve(line, x, y))],
        ys=[(f"{y(t) / SIZE:.2%}", n) for t, n in zip(ticks, tick_labels(ticks), strict=True)],
        xs=[(f"{x(t) / SIZE:.2%}", label, x(t) > 0.97 * SIZE) for t, label in labels],
        notes=[text for text in (hidden, _missing(lines), note) if text],
    )


def downsample(
    steps: Sequence[int], values: Sequence[float], limit: int = MAX_POINTS
) -> tuple[list[int], list[float]]:
    """At most `limit` points: the ends, and the minimum and maximum of each stretch between.

    A stretch that holds a value which is not finite keeps one, so that the gap is still drawn.
    """
    if len(steps) <= limit:
        return list(steps), list(values)
    stretches = (limit - 2) // 3
    inner = range(1, len(steps) - 1)
    keep = {0, len(steps) - 1}
    for k in range(stretches):
        part = inner[k * len(inner) // stretches : (k + 1) * len(inner) // stretches]
        finite = [i for i in part if math.isfinite(values[i])]
        if finite:
            keep.update((min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)))
        if len(finite) < len(part):
            keep.add(next(i for i in part if not math.isfinite(values[i])))
    order = sorted(keep)
    return [steps[i] for i in order], [values[i] for i in order]


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean over `width` points around each (fewer at the ends), of those that are finite."""
    sums, counts = [0.0], [0]
    for value in values:
        finite = math.isfinite(value)
        sums.append(sums[-1] + (value if finite else 0.0))
        counts.append(counts[-1] + finite)
    means = []
    for i in range(len(values)):
        half = min(width // 2, i, len(values) - 1 - i)  # symmetric: no lag, exact at the ends
        a, b = i - half, i + half + 1
        count = counts[b] - counts[a]
        means.append((sums[b] - sums[a]) / count if count else math.nan)
    return means


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` multiples of 1, 2 or 5 times a power of ten that cover [low, high]."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(begin, end + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, all in one form: 2.5, 12,000, 1.5M or 3e-4."""
    if len(ticks) < 2:
        return [f"{t:g}" for t in ticks]
    top, step = max(map(abs, ticks)), ticks[1] - ticks[0]
    if top < 0.01 or top >= 1e12:
        return [_power(t) if abs(t) > step / 2 else "0" for t in ticks]
    scale, unit = next(((s, u) for s, u in ((1e9, "B"), (1e6, "M")) if top >= s), (1.0, ""))
    if top >= 100_000 and not unit:
        scale, unit = 1e3, "k"
    decimals = max(0, -math.floor(math.log10(step / scale) + 1e-9))
    return [f"{t / scale:,.{decimals}f}{unit}" if abs(t) > step / 2 else "0" for t in ticks]


# ---------------------------------------------------------------------------------------- the parts


def _thinned(line: Line) -> Line:
    steps, values = downsample(line.steps, line.values)
    return replace(line, steps=steps, values=values)


def _frame(lines: Sequence[Line], from_zero: bool) -> tuple[float, float, str]:
    """(low, high, what is outside): the range of the run after its beginning.

    The first twentieth of a run and one value in a hundred at either end do not widen the frame, if
    leaving them out makes the rest at least half as large again.
    """
    every = [v for line in lines for v in line.values if math.isfinite(v)]
    begin = max(line.steps[-1] for line in lines) * 0.05
    late = sorted(
        value
        for line in lines
        for step, value in zip(line.steps, line.values, strict=True)
        if math.isfinite(value) and step >= begin
    )
    low, high, note = min(every), max(every), ""
    if len(late) >= 20:
        cut = len(late) // 100
        near, far = late[cut], late[-1 - cut]
        pad = 0.15 * (far - near)
        near, far = max(near - pad, low), min(far + pad, high)
        if from_zero:
            near = min(near, 0.0)
        if far > near and (high - min(low, near)) > 1.5 * (far - near):
            parts = []
            if high > far:
                parts.append(f"above the frame: up to {high:.4g}")
            if low < near:
                parts.append(f"below the frame: down to {low:.4g}")
            note = f"Values {', '.join(parts)}"
            low, high = near, far
    if from_zero:
        low = min(low, 0.0)
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad * (not from_zero), high + pad
    return low, high, note


def _curve(
    line: Line, x: Callable[[float], float], y: Callable[[float], float]
) -> list[tuple[str, str]]:
    """(CSS class, SVG path) of what draws a line."""

    def path(values: Sequence[float]) -> str:
        parts, pen = [], "M"
        for step, value in zip(line.steps, values, strict=True):
            if not math.isfinite(value):
                pen = "M"
                continue
            parts.append(f"{pen}{x(step):.1f} {min(max(y(value), -9 * SIZE), 9 * SIZE):.1f}")
            pen = "L"
        return "".join(parts)

    if line.smooth and len(line.values) >= 40:
        mean = moving_mean(line.values, max(3, len(line.values) // 25))
        return [
            (f"line faint {line.style}", path(line.values)),
            (f"line {line.style}", path(mean)),
        ]
    whole = path(line.values)
    found = [(f"line {line.style}", whole)] if line.joined else []
    parts = whole.replace("L", "M").replace("M", "\0M").split("\0")[1:]
    # A stroke of no length with round ends is a dot that the stretched SVG cannot distort.
    if parts and (len(parts) <= 40 or not line.joined):
        css = "dots" if line.joined else "dots single"
        found.append((f"{css} {line.style}", "".join(f"{part}h0" for part in parts)))
    return found


def _missing(lines: Sequence[Line]) -> str:
    steps = [
        step
        for line in lines
        for step, value in zip(line.steps, line.values, strict=True)
        if not math.isfinite(value)
    ]
    if not steps:
        return ""
    shown = ", ".join(f"{s:,}" for s in steps[:5]) + (", …" if len(steps) > 5 else "")
    return f"Not finite at step {shown}"


def _spoken(title: str, lines: Sequence[Line]) -> str:
    ends = []
    for line in lines:
        finite = [v for v in line.values if math.isfinite(v)]
        ends.append(f"{line.name} from {finite[0]:.4g} to {finite[-1]:.4g}")
    return f"{title}: {', '.join(ends)}"


def _plain(values: Sequence[float]) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]


def _power(value: float) -> str:
    digits, _, exponent = f"{value:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
