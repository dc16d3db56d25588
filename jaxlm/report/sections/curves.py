"""The charts of all measures over steps.

Measures with one name, such as train/loss and eval/loss, share a chart. The main one is wide;
headlines and the figures of training follow, and a fold holds the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.core.measures import model_key
from jaxlm.report.charts import Line, line_chart
from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.runs.trackers import series

if TYPE_CHECKING:
    from markupsafe import Markup

WHOLE = ", whole split"
STYLES = ("b", "c", "a")  # of the lines of a chart after that of training


@dataclass(frozen=True, kw_only=True)
class Curves(Section):
    """The measures over steps."""

    title: ClassVar = "Curves"
    order: ClassVar = 10
    template: ClassVar = """\
{% if not charts %}
<p class="empty">Nothing was logged.</p>
{% else %}
<div class="charts">{% for chart in charts %}{{ chart }}{% endfor %}</div>
{% if more %}
<details><summary>more measures</summary><div class="charts">
{%- for chart in more %}{{ chart }}{% endfor -%}
</div></details>
{% endif %}
{% if legend %}<p class="note">{{ legend | join(" ") }}</p>{% endif %}
{% endif %}
"""

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        resumed, back = run.events("resume"), run.events("rollback")
        marks = {"mark": [r["step"] for r in resumed], "mark back": [r["step"] for r in back]}
        groups: dict[str, list[str]] = {}
        for key in run.measured:
            if run.measure(key).baseline and model_key(key) not in run.measured:
                continue  # such as the seconds of a baseline
            # the ends of a curve are drawn with it
            extent, _, name = key.partition("/")
            if extent not in ("start", "final") or f"eval/{name}" not in run.measured:
                groups.setdefault(key.rpartition("/")[2], []).append(key)
        charts: list[Markup | str] = []
        more: list[Markup | str] = []
        drawn: list[Line] = []
        single = False  # whether a run that has ended has one value of a measure, and no curve
        for keys in groups.values():
            lines = [line for key in keys for line in _lines(run, key, len(keys) > 1)]
            if run.result and 0 < max(map(_points, lines), default=0) < 2:
                single = True
                continue
            lines.sort(key=lambda line: line.name != "train")
            measure = run.measure(next((k for k in keys if k.startswith("eval/")), keys[0]))
            first = any(run.measure(k).show == "headline" for k in keys)
            own = first or (measure.summary == "last" and not measure.name.startswith("eval/"))
            median = run.median(keys[0]) if measure.summary == "median" else None
            chart = line_chart(
                measure.title[:1].upper() + measure.title[1:],
                lines,
                marks=marks,
                from_zero=measure.better is None or measure.summary == "median",
                wide=own and not charts,
                note="" if median is None else f"Median {measure.shown(median)}",
            )
            if chart:
                (charts if own else more).append(chart)
                drawn += lines
        if single and not charts and not more:
            return None
        legend = []
        if any('class="line faint' in chart for chart in [*charts, *more]):
            legend.append("Faint: values as logged; bold: their moving mean.")
        if any(line.name.endswith(WHOLE) and line.steps for line in drawn):
            legend.append(f"Dot: {_part(run)}")
        if resumed:
            legend.append("Dashed: the run was resumed.")
        if back:
            legend.append("Dashed red: the run was rolled back to this step.")
        return {"charts": charts or more, "more": more if charts else [], "legend": legend}


def _lines(run: RunFiles, key: str, several: bool) -> list[Line]:
    part, _, name = key.partition("/")
    if part != "eval":
        steps, values = series(run.metrics, key)
        measure = run.measure(key)
        own = measure.baseline or (part if several else measure.title)
        if measure.baseline:
            return [Line(name=own, style="c", steps=steps, values=values, joined=False)]
        return [Line(name=own, style="a", steps=steps, values=values, smooth=_noisy(values))]
    evaluator = name.rpartition("/")[0]
    own = run.measure(key).baseline or evaluator or "validation"
    style = STYLES[sum(map(ord, evaluator)) % 2 + 1] if evaluator else STYLES[0]
    (at, values), (ends, finals) = run.curve(name), run.whole(name)
    return [
        Line(name=own, style=style, steps=at, values=values),
        Line(name=f"{own}{WHOLE}", style=style, steps=ends, values=finals, joined=False),
    ]


def _points(line: Line) -> int:
    return sum(map(math.isfinite, line.values))


def _noisy(values: Sequence[float]) -> bool:
    """Whether a curve turns at more than one point in ten, as no schedule does."""
    finite = [v for v in values if math.isfinite(v)]
    rises = [b - a for a, b in zip(finite, finite[1:], strict=False)]
    turns = sum(a * b < 0 for a, b in zip(rises, rises[1:], strict=False))
    return turns > len(finite) / 10


def _part(run: RunFiles) -> str:
    """The data that a dot and the curve beside it are measured on."""
    count = (run.config.get("eval") or {}).get("max_batches")
    curve = f"the first {count} batches of it" if count else "a part of it"
    return f"the whole validation split, measured after the last step; the curve: {curve}."
