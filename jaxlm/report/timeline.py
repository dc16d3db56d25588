"""What happened over a run's steps: the curves of its metrics, and its events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.report.charts import Line, line_chart
from jaxlm.report.files import RunFiles, time_of
from jaxlm.report.tables import clock, table
from jaxlm.runs.trackers import series


def curves(run: RunFiles) -> str:
    """The charts of the metrics over steps."""
    resumed, back = run.events("resume"), run.events("rollback")
    marks = {"mark": [r["step"] for r in resumed], "mark back": [r["step"] for r in back]}

    def line(key: str, name: str, smooth: bool = True) -> Line:
        steps, values = series(run.metrics, key)
        return Line(name=name, style="a", steps=steps, values=values, smooth=smooth)

    def measured(key: str, name: str, style: str) -> list[Line]:
        (at, values), (ends, finals) = run.curve(key), run.whole(key)
        last = f"{name}, whole split"
        return [
            Line(name=name, style=style, steps=at, values=values),
            Line(name=last, style=style, steps=ends, values=finals, joined=False),
        ]

    wait = run.median("train/data_wait")
    mfu = run.median("train/mfu")
    speed = [f"MFU {mfu:.1%}"] if mfu is not None else []
    speed += [f"waiting for data {wait:.1%} of the time"] if wait is not None else []
    quality = line_chart(
        "Bits per character",
        measured("bits_per_char", "validation", "b"),
        marks=marks,
    ) or line_chart(
        "Accuracy",
        measured("accuracy", "accuracy", "b") + measured("macro_f1", "macro F1", "c"),
        marks=marks,
    )
    charts = [
        line_chart(
            "Loss",
            [line("train/loss", "train"), *measured("loss", "validation", "b")],
            marks=marks,
            wide=True,
        ),
        quality,
        line_chart(
            "Learning rate",
            [line("train/learning_rate", "rate", smooth=False)],
            marks=marks,
            from_zero=True,
        ),
        line_chart("Gradient norm", [line("train/grad_norm", "norm")], marks=marks, from_zero=True),
        line_chart(
            "Throughput",
            [line("train/tokens_per_second", "real tokens/s")],
            marks=marks,
            from_zero=True,
            note=f"Median {', '.join(speed)}" if speed else "",
        ),
    ]
    drawn = "".join(charts)
    if not drawn:
        return '<p class="empty">Nothing was logged.</p>'
    legend = []
    if any('class="line faint' in chart for chart in charts):
        legend.append("Faint: values as logged; bold: their moving mean.")
    if any('class="key b dot"' in chart for chart in charts):
        legend.append(f"Dot: {_part(run)}")
    if resumed:
        legend.append("Dashed: the run was resumed.")
    if back:
        legend.append("Dashed red: the run was rolled back to this step.")
    note = f'<p class="note">{" ".join(legend)}</p>' if legend else ""
    return f'<div class="charts">{drawn}</div>{note}'


def events(run: RunFiles) -> str:
    """Resumes with what they changed, rollbacks, accepted changes of the data, in order of time.

    "" where the run has only its start.
    """
    found = [(r, _resumed(r)) for r in run.events("resume")]
    found += [(r, _rolled_back(r)) for r in run.events("rollback")]
    for record in run.identity.get("accepted") or ():
        text = f"changed data accepted ({record['flag']}): {record['change']}"
        found.append((record, text))
    if not found:
        return ""
    found += [(record, "started") for record in run.events("start")]
    rows = sorted((time_of(record), record["step"], text) for record, text in found)
    return table(
        ["time", "step", "event"],
        [(clock(at or None), step, text) for at, step, text in rows],
        "events",
    )


def _resumed(record: Mapping[str, Any]) -> str:
    changed = record.get("changed")
    lines = changed if isinstance(changed, list) else []
    return "; ".join(["resumed", *(f"changed {line}" for line in lines)])


def _rolled_back(record: Mapping[str, Any]) -> str:
    batches = record.get("batches")
    text = f"rolled back to this step: the loss was not finite at step {record.get('seen')}"
    if isinstance(batches, list) and batches:
        text += f"; batches {batches[0]} to {batches[-1]} are skipped (0 is the first)"
    return text


def _part(run: RunFiles) -> str:
    """What a dot and the curve beside it are measured on."""
    count = (run.config.get("eval") or {}).get("max_batches")
    curve = f"the first {count} batches of it" if count else "a part of it"
    return f"the whole validation split, measured after the last step; the curve: {curve}."
