"""The worth of pre-training, as a table for a terminal and as a page: see `jaxlm.api.curve`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxlm
from jaxlm.core.files import write_atomic
from jaxlm.core.measures import Measure, from_display
from jaxlm.report.charts import Line, line_chart
from jaxlm.report.html import page
from jaxlm.report.tables import table as html_table

SCRATCH, PRETRAINED = "scratch", "pretrained"
STARTS = (SCRATCH, PRETRAINED)
NAMES = {SCRATCH: "from scratch", PRETRAINED: "pre-trained"}
STYLES = {SCRATCH: "a", PRETRAINED: "b"}
NOTE = (
    "p: share of the draws of seeds and records, the same for both, in which the pre-trained runs "
    "are not better (paired bootstrap). Worth: the labels that training from scratch needs in "
    "addition for the same value, linear in their logarithm between the points."
)


def write_page(folder: Path, result: Mapping[str, Any]) -> Path:
    """Writes curve.html beside curve.json and returns its path; `result` is what that holds."""
    main, rows = measure_of(result), result["rows"]
    lines = []
    for start in STARTS:
        labels = [row["labels"] for row in rows]
        means = [row[start]["mean"] for row in rows]
        lines.append(Line(name=NAMES[start], style=STYLES[start], steps=labels, values=means))
    for start in STARTS:
        points = [(row["labels"], value) for row in rows for value in row[start]["values"]]
        at, values = [x for x, _ in points], [y for _, y in points]
        name = f"{NAMES[start]}, one seed"
        style = STYLES[start]
        lines.append(Line(name=name, style=style, steps=at, values=values, joined=False))
    title = main.title[:1].upper() + main.title[1:]
    chart = line_chart(f"{title} by labels", lines, wide=True, unit="labels")
    head = ["labels", *NAMES.values(), "p", "worth"]
    text = page(
        folder.name,
        kind="learning curve",
        heading=f"Does pre-training pay? {Path(result['config']).stem}",
        status=f"{result['seeds']} seeds · {result['records']:,} validation records · "
        f"from {result['from']}",
        notes=[NOTE],
        figures=[(f"worth of pre-training at {row['labels']:,} labels", worth(result, row))
                 for row in rows],
        texts=[],
        sections=[("Curve", chart), ("Figures", html_table(head, _cells(result), right=head))],
        footer=f"Written by jaxlm {jaxlm.__version__}; the values are in curve.json.",
    )  # fmt: skip
    path = folder / "curve.html"
    write_atomic(path, text)
    return path


def table(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    main, seeds = measure_of(result), result["seeds"]
    lines = [f"{main.title}, mean and standard deviation over {seeds} seeds"]
    head = ["labels", *NAMES.values(), "p", "worth"]
    cells = [head, *_cells(result)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(head))]
    lines += ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(lines)


def measure_of(result: Mapping[str, Any]) -> Measure:
    display = dict(result["measure"])
    return from_display(display.pop("name"), None, display)


def worth(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The worth of a start at a number of labels: "640 labels", "more than 700 labels"."""
    if row["needed"] is None:
        rest = max(other["labels"] for other in result["rows"]) - row["labels"]
        return f"more than {rest:,} labels" if rest else "more labels than were tried"
    gain = round(row["needed"] - row["labels"])
    return f"{gain:,} labels" if gain > 0 else "no labels"


def _cells(result: Mapping[str, Any]) -> list[list[str]]:
    main = measure_of(result)
    return [
        [
            f"{row['labels']:,}",
            *(_spread(main, row[start]) for start in STARTS),
            f"{row['p']:.4f}",
            worth(result, row),
        ]
        for row in result["rows"]
    ]


def _spread(main: Measure, values: Mapping[str, Any]) -> str:
    """ "0.7310 ± 0.0042"."""
    spread = "" if values["std"] is None else f" ± {main.shown(values['std'])}"
    return f"{main.shown(values['mean'])}{spread}"
