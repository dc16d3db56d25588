"""A plan as one page, with a picture of the memory over the step.

For a compiled step the picture is its schedule (`jaxlm.plan.hlo.liveness`), with a loop's body run
once. For an analytic plan it is a sketch: saved activations grow layer by layer, then shrink while
gradients grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jaxlm
from jaxlm.plan.memory import ROOM, live_bytes
from jaxlm.plan.planning import Plan
from jaxlm.plan.text import (
    VERDICTS,
    amount,
    bound,
    gib,
    memory_rows,
    paragraph,
    rows,
    seconds,
    setting_text,
    times,
    wires,
)
from jaxlm.report.charts import Line, line_chart
from jaxlm.report.html import fill, page
from jaxlm.report.tables import table

if TYPE_CHECKING:
    from markupsafe import Markup

PER_MILLE = 1000
# Columns of a search's table, as the page names them.
WORDS = {
    "step_s": "step, s",
    "tokens_per_s_per_chip": "tokens/s a chip",
    "mfu_causal": "MFU, causal half",
}


def write(plan: Plan, path: Path, others: Sequence[Sequence[str]] = ()) -> None:
    """Writes the page; `others` are rows of a search's table, its head first."""
    path.write_text(render(plan, others), encoding="utf-8")


def render(plan: Plan, others: Sequence[Sequence[str]] = ()) -> str:
    """The whole page."""
    return page(
        f"Plan for {plan.topology}",
        kind=f"plan, {plan.source}",
        heading=str(plan.topology),
        status=setting_text(plan),
        notes=[*([] if plan.memory.verdict in ROOM else [paragraph(plan)]), *plan.notes],
        figures=_figures(plan),
        texts=[],
        sections=[
            ("Memory", _memory(plan)),
            ("Time", _time(plan)),
            ("Search", _search(others)),
            ("What to change", _advice(plan)),
            ("All figures", table(("section", "name", "value", "unit"), rows(plan))),
        ],
        footer=f"Written by jaxlm {jaxlm.__version__}; {plan.source}.",
    )


def picture(plan: Plan) -> Markup | str:
    """The memory of a device over one step."""
    points, phases, note = _course(plan)
    if not points:
        return ""
    steps = [round(PER_MILLE * at) for at, _ in points]
    limit = plan.memory.limit / 2**30
    lines = [
        Line(name="in use, GiB", style="a", steps=steps, values=[v / 2**30 for _, v in points]),
        Line(name="limit", style="b", steps=[0, PER_MILLE], values=[limit, limit]),
    ]
    marks = [round(PER_MILLE * at) for at, _ in phases]
    starts = ", ".join(f"{name} from {PER_MILLE * at:.0f}" for at, name in phases)
    return line_chart(
        "Memory of a device over one step (thousandths of its instructions)",
        lines,
        marks={"mark": marks},
        from_zero=True,
        wide=True,
        note=f"{note}{starts}",
    )


def _course(plan: Plan) -> tuple[list[tuple[float, float]], list[tuple[float, str]], str]:
    kinds = plan.memory.by_kind()
    if plan.compiled is not None and plan.compiled.stats is not None:
        timeline = plan.compiled.timeline
        live = live_bytes(plan.compiled.stats)
        base = plan.memory.total - live
        scale = min(1.0, live / max(1, timeline.peak_bytes))
        points = [(at, base + scale * size) for at, size in timeline.points]
        return points, _main_phases(timeline.phases), "From the compiled schedule: "
    saved, grads = kinds.get("saved for backward", 0.0), kinds.get("gradients", 0.0)
    temporary = kinds.get("temporaries", 0.0)
    base = plan.memory.total - saved - grads - temporary
    course = [(0.0, base), (0.3, base + saved), (0.34, base + saved + temporary)]
    course += [(0.36, base + saved + temporary + grads * 0.02), (0.92, base + temporary + grads)]
    course += [(0.93, base + grads), (1.0, base)]
    phases = [(0.0, "forward"), (0.34, "backward"), (0.93, "update")]
    return course, phases, "A sketch, not a schedule: "


def _main_phases(phases: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The start of each phase in earnest: that of its longest stretch."""
    ends = [*(at for at, _ in phases[1:]), 1.0]
    longest: dict[str, tuple[float, float]] = {}
    for (at, name), end in zip(phases, ends, strict=True):
        if end - at > longest.get(name, (0.0, 0.0))[1]:
            longest[name] = at, end - at
    return sorted((at, name) for name, (at, _) in longest.items())


def _figures(plan: Plan) -> list[tuple[str, str]]:
    """(label, text) of the headline figures."""
    s = plan.speed
    verdict, _, why = VERDICTS[plan.memory.verdict].partition(": ")
    figures = [
        ("verdict" + (f", {why}" if why else ""), verdict.lower()),
        (f"GiB of {plan.memory.limit / 2**30:.1f}", f"{plan.memory.total / 2**30:.1f}"),
        ("step", seconds(s.step)),
        ("bound by", bound(plan)),
        ("tokens/s a chip", f"{s.tokens_per_second_per_chip:,.0f}"),
        ("MFU, causal half", f"{s.mfu_causal:.1%}"),
        ("MFU, all of attention", f"{s.mfu_full:.1%}"),
    ]
    if s.days is not None:
        figures += [("days", f"{s.days:,.1f}"), ("cost, USD", f"{s.cost:,.0f}")]
    return figures


def _memory(plan: Plan) -> Markup:
    rows = table(("what", "size", "of which"), memory_rows(plan), right=("size",))
    return fill("{{ picture }}{{ rows }}", picture=picture(plan), rows=rows)


def _time(plan: Plan) -> Markup:
    """The parts of a step's time, and the bytes that it sends."""
    spent = [(name, seconds(value)) for name, value in times(plan).items()]
    if plan.schedule is not None:
        spent.append(("estimate of the compiler", seconds(plan.schedule.step)))
    sent = [(name, amount(size, "B")) for name, size in wires(plan).items()]
    tables = [table(("a step's time", "time"), spent, right=("time",))]
    if sent:
        tables.append(table(("a device sends in a step", "size"), sent, right=("size",)))
    return fill("{% for t in tables %}{{ t }}{% endfor %}", tables=tables)


def _search(others: Sequence[Sequence[str]]) -> Markup | None:
    if not others:
        return None
    head = [WORDS.get(name, name) for name in others[0]]
    return table(head, others[1:], right=head[3:7])


def _advice(plan: Plan) -> Markup | None:
    cells = [(" ".join(p.overrides), gib(p.memory), seconds(p.step)) for p in plan.advice]
    return table(("change", "memory", "step"), cells, right=("memory", "step")) if cells else None
