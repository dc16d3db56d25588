"""The page of a ladder: a measure against seconds, FLOPs and parameters: see `jaxlm.api.ladder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jaxlm
from jaxlm.core.files import write_atomic
from jaxlm.core.measures import Measure, from_display
from jaxlm.core.numbers import duration, human
from jaxlm.report.crossings import Crossing, Series, crossings
from jaxlm.report.html import fill, page
from jaxlm.report.log_chart import log_chart
from jaxlm.report.tables import table as html_table

NOTES = (
    "A budget is training time: steps, waiting for data, and evaluations that a run makes while it "
    "trains. The number of steps is set before a run from the measured time of a step, so that the "
    "schedule of the learning rate ends with the budget; the times here are those that the runs "
    "took. Start is the time in which the prepared data is read and the programs are compiled, "
    "that of the evaluation too. Whole is all time of a run, with the last evaluation, saves and "
    "the rest. Downloads and the preparation of data, which runs share, are in none of them.",
    "A model that is counted, or that has a length of its own, is one point: the dashed line is "
    "its value from then on. FLOPs are those of training, 3 times the forward pass where all is "
    "trained, padding included; a counted model has none. Parameters of a counted model are the "
    "numbers in its tables.",
)
HEAD = ("model", "budget", "", "training", "start", "whole", "steps", "parameters", "FLOPs")


def write_page(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes ladder.html beside ladder.json and returns its path; `result` is what that holds."""
    main = measure_of(result)
    title = main.title[:1].upper() + main.title[1:]
    styles = {name: number for number, name in enumerate(result["rungs"])}
    sections: list[tuple[str, Any]] = []
    for heading, by, key, label in (
        ("Seconds of training", "seconds of training", "training", seconds),
        ("Seconds of training and start", "seconds of training and start", "both", seconds),
        ("FLOPs of training", "FLOPs of training", "flops", human),
    ):
        lines = series_of(result, key)
        found = crossings(lines, main.better or "higher")
        chart = log_chart(
            f"{title} by {by}",
            lines,
            found,
            label=label,
            value=main.shown,
            styles=styles,
            note="Rings mark crossings." if found else "No line crosses another.",
        )
        if not chart:
            continue
        words = [[text] for text in sentences(found, main, label)]
        listed = html_table(["crossings"], words) if words else ""
        sections.append((heading, fill("{{ chart }}{{ listed }}", chart=chart, listed=listed)))
    sizes = log_chart(
        f"{title} by parameters", _by_size(result), value=main.shown, styles=styles,
        note="Points of one model join its budgets where its size depends on them.",
    )  # fmt: skip
    if sizes:
        sections.append(("Parameters", sizes))
    rows = html_table([HEAD[0], HEAD[1], main.title, *HEAD[3:]], _cells(result), right=HEAD[3:])
    sections.append(("Figures", rows))
    text = page(
        folder.name,
        kind="ladder",
        heading=result["title"],
        status=_machine(result),
        notes=[*NOTES, *_notes(result)],
        figures=[(f"best at {name}: {p['rung']}", _value(p)) for name, p in best(result)],
        texts=[],
        sections=sections,
        footer=f"Written by jaxlm {jaxlm.__version__}; the values are in ladder.json.",
    )
    path = folder / "ladder.html"
    write_atomic(path, text)
    return path


def table(result: Mapping[str, Any]) -> str:
    """The result for a terminal: a row a run, then the crossings."""
    main = measure_of(result)
    cells = [[*HEAD[:2], main.title, *HEAD[3:]], *_cells(result)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(HEAD))]
    rows = []
    for row in cells:
        pairs = list(zip(row, widths, strict=True))
        left = [cell.ljust(width) for cell, width in pairs[:2]]
        rows.append("  ".join([*left, *(cell.rjust(width) for cell, width in pairs[2:])]))
    found = crossings(series_of(result, "training"), main.better or "higher")
    return "\n".join([result["title"], _machine(result), *rows, *sentences(found, main, seconds)])


def said(point: Mapping[str, Any]) -> str:
    """The value of a point for people: "bits per character 2.179"."""
    return f"{measure_of(point).title} {_value(point)}"


def measure_of(result: Mapping[str, Any]) -> Measure:
    display = dict(result["measure"])
    return from_display(display.pop("name"), None, display)


def series_of(result: Mapping[str, Any], key: str) -> list[Series]:
    """The lines of the rungs over "training", "both" (with the start) or "flops", in order.

    A counted model has no FLOPs: its line begins with the first point of the others.
    """
    points = _finite(result)
    first = min((_x(p, key) for p in points if _x(p, key) > 0), default=None)
    if first is None:
        return []
    found = []
    for name in result["rungs"]:
        own = {_x(p, key) or first: p for p in points if p["rung"] == name}
        if not own:
            continue
        xs = tuple(sorted(own))
        last = own[xs[-1]]["budget"] is None
        found.append(Series(name, xs, tuple(own[x]["value"] for x in xs), lasts=last))
    return found


def sentences(found: Sequence[Crossing], main: Measure, label: Callable[[float], str]) -> list[str]:
    return [
        f"{c.winner} passes {c.loser} at {label(c.x)}, with {main.title} {main.shown(c.y)}"
        for c in found
    ]


def best(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(budget, the best point at it), among its own and those that need no budget and less time."""
    main, points = measure_of(result), _finite(result)
    if not points:
        return []
    titles = list(dict.fromkeys(p["budget"] for p in points if p["budget"] is not None))
    found = []
    for title in titles:
        own = [p for p in points if p["budget"] == title]
        longest = max(p["training"] for p in own)
        every = own + [p for p in points if p["budget"] is None and p["training"] <= longest]
        found.append((title, _best(every, main)))
    return found or [("its own length", _best(points, main))]


def seconds(value: float) -> str:
    """ "8.1 s", "35 s", "4m12s"."""
    if value >= 60:
        return duration(value)
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"


def _best(points: Sequence[Mapping[str, Any]], main: Measure) -> Mapping[str, Any]:
    choose = min if main.better == "lower" else max
    return choose(points, key=lambda p: p["value"])


def _x(point: Mapping[str, Any], key: str) -> float:
    if key == "both":
        return float(point["training"] + point["start"])
    return float(point[key])


def _by_size(result: Mapping[str, Any]) -> list[Series]:
    """The values over parameters; the points of a model in the order of its budgets."""
    found = []
    for name in result["rungs"]:
        own = sorted((p for p in _finite(result) if p["rung"] == name), key=lambda p: p["training"])
        if not own:
            continue
        xs, ys = (tuple(p[key] for p in own) for key in ("parameters", "value"))
        found.append(Series(name, xs, ys))
    return found


def _cells(result: Mapping[str, Any]) -> list[list[str]]:
    order = {name: number for number, name in enumerate(result["rungs"])}
    points = sorted(result["points"], key=lambda p: (order[p["rung"]], p["training"]))
    return [
        [
            p["rung"],
            p["budget"] or "own length",
            _value(p),
            seconds(p["training"]),
            seconds(p["start"]),
            seconds(p["whole"]),
            f"{p['steps']:,}",
            human(p["parameters"]),
            human(p["flops"]) if p["flops"] else "none",
        ]
        for p in points
    ]


def _value(point: Mapping[str, Any]) -> str:
    value = point["value"]
    return "not finite" if value is None else measure_of(point).shown(value)


def _finite(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The points that have a value."""
    return [p for p in result["points"] if p["value"] is not None]


def _machine(result: Mapping[str, Any]) -> str:
    """ "2 CPU cores": of each machine that a point was measured on."""
    found = []
    for p in result["points"]:
        cores = f"{p['cores']} CPU core{'s' if p['cores'] != 1 else ''}"
        found.append(cores if p["device"] == "cpu" else f"{p['devices']} x {p['device']}")
    every = list(dict.fromkeys(found))
    mixed = "; compare only points of one machine" if len(every) > 1 else ""
    return f"measured on {' and on '.join(every)}{mixed}"


def _notes(result: Mapping[str, Any]) -> list[str]:
    notes = dict.fromkeys((p["rung"], p["note"]) for p in result["points"] if p["note"])
    return [f"{rung}: {note}" for rung, note in notes]
