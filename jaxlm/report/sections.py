"""The sections of a report, each from `RunFiles` to HTML; "" where there is nothing to show."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from jaxlm.report.charts import Line, line_chart
from jaxlm.report.files import RunFiles
from jaxlm.report.tables import escape, fields_table, flatten, show, table, tree
from jaxlm.train.metrics import series
from jaxlm.train.progress import duration, human
from jaxlm.train.stopwatch import percentages

MAX_SAMPLE_STEPS = 24
MAX_SAMPLES_PER_STEP = 6
MAX_SAMPLE_CHARS = 3000
MAX_SAMPLE_BYTES = 600_000  # of all samples together
MAX_CLASSES = 30
HEADLINE_ONLY = {"num_params", "tokens"}  # figures of a result that are no measurement of it


def curves(run: RunFiles) -> str:
    """The charts of the metrics over steps."""
    marks = run.restarts

    def line(key: str, name: str, style: str = "a", smooth: bool = True) -> Line:
        steps, values = series(run.metrics, key)
        return Line(name=name, style=style, steps=steps, values=values, smooth=smooth)

    wait = run.median("train/data_wait")
    mfu = run.median("train/mfu")
    speed = [f"MFU {mfu:.1%}"] if mfu is not None else []
    speed += [f"waiting for data {wait:.1%} of the time"] if wait is not None else []
    # Bits per character say of a language model what accuracy says of a classifier.
    quality = line_chart(
        "Bits per character",
        [line("eval/bits_per_char", "validation", "b", False)],
        marks=marks,
    ) or line_chart(
        "Accuracy",
        [
            line("eval/accuracy", "accuracy", "b", False),
            line("eval/macro_f1", "macro F1", "c", False),
        ],
        marks=marks,
    )
    charts = [
        line_chart(
            "Loss",
            [line("train/loss", "train"), line("eval/loss", "validation", "b", False)],
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
    if marks:
        legend.append("Dashed: the run was stopped and resumed.")
    note = f'<p class="note">{" ".join(legend)}</p>' if legend else ""
    return f'<div class="charts">{drawn}</div>{note}'


def timing(run: RunFiles) -> str:
    """The stopwatch's account as a bar and a table; the shares sum to 100."""
    spent = {k: v for k, v in run.timing.get("nanoseconds", {}).items() if v > 0}
    if not spent:
        return ""
    spent = dict(sorted(spent.items(), key=lambda pair: -pair[1]))
    shares = percentages(spent)
    bar = "".join(
        f'<i class="{escape(name)}" style="flex:{spent[name]} 1 0" '
        f'title="{escape(name)} {shares[name]}%"></i>'
        for name in spent
    )
    rows = "".join(
        f'<tr><td class="swatch {escape(name)}">{escape(name)}</td>'
        f'<td class="n">{_seconds(value)}</td><td class="n">{shares[name]:.1f}%</td></tr>'
        for name, value in spent.items()
    )
    total = f'<td class="n">{_seconds(sum(spent.values()))}</td><td class="n">100.0%</td>'
    processes = run.timing.get("processes", 1)
    note = f'<p class="note">Over {processes} processes of this run.</p>' if processes > 1 else ""
    return (
        f'<div class="bar">{bar}</div><table class="time">{rows}'
        f"<tfoot><tr><th>wall time</th>{total}</tr></tfoot></table>{note}"
    )


def evaluation(run: RunFiles) -> str:
    """The final figures and, for a classification, the confusion table with F1."""
    final = run.result.get("final", {})
    figures = [
        (name.removeprefix("eval/").replace("_", " "), value)
        for name, value in final.items()
        if isinstance(value, (int, float)) and name not in HEADLINE_ONLY
    ]
    parts = [table(["on the validation split", ""], figures)] if figures else []
    confusion = run.result.get("confusion")
    if confusion:
        parts.append(_confusion(confusion["classes"], confusion["table"]))
    return f'<div class="side">{"".join(parts)}</div>' if parts else ""


def samples(run: RunFiles) -> str:
    """What the model wrote, newest first; a long run is shown at steps spread over it."""
    records = list({record["step"]: record for record in run.samples}.values())
    if not records:
        return ""
    count = min(len(records), MAX_SAMPLE_STEPS)
    chosen = sorted({round(i * (len(records) - 1) / max(count - 1, 1)) for i in range(count)})
    losses = dict(zip(*series(run.metrics, "eval/loss"), strict=True))
    blocks: list[str] = []
    size = 0
    for index in reversed(chosen):
        record = records[index]
        body = "".join(_sample(s) for s in record["samples"][:MAX_SAMPLES_PER_STEP])
        size += len(body.encode())
        if blocks and size > MAX_SAMPLE_BYTES:
            break
        loss = losses.get(record["step"])
        after = f"validation loss {loss:.3f}" if loss is not None else ""
        blocks.append(
            f"<details{'' if blocks else ' open'}><summary><b>step {record['step']:,}</b>{after}"
            f"</summary>{body}</details>"
        )
    left = len(records) - len(blocks)
    note = f'<p class="note">{left:,} more are in samples.jsonl.</p>' if left else ""
    return "".join(blocks) + note


def configuration(run: RunFiles) -> str:
    """Every field of the config, a fold for each of its parts."""
    plain = {k: v for k, v in run.config.items() if not isinstance(v, Mapping)}
    parts = {k: v for k, v in run.config.items() if isinstance(v, Mapping)}
    sources = run.marks or None
    blocks: list[tuple[str, str, Mapping[str, Any]]] = [("run", "", plain)]
    blocks += [(key, f"{key}.", value) for key, value in parts.items()]
    return "".join(
        f"<details><summary><b>{escape(name)}</b>{escape(_gist(value))}</summary>"
        f"{fields_table(flatten(value), sources, prefix)}</details>"
        for name, prefix, value in blocks
        if value
    )


def checkpoints(run: RunFiles) -> str:
    """The checkpoints that lie in the run's folder."""
    rows = [
        (
            c.step,
            f"{human(c.size_bytes)}B",
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(c.time)),
            c.kept_reason,
        )
        for c in run.checkpoints
    ]
    return table(["step", "size", "saved", "state"], rows) if rows else ""


def data(run: RunFiles) -> str:
    """The data manifest."""
    return tree(run.manifest) if run.manifest else ""


def environment(run: RunFiles) -> str:
    """Versions, devices, machine."""
    return fields_table(flatten(run.environment)) if run.environment else ""


# ---------------------------------------------------------------------------------------- the parts


def _gist(values: Mapping[str, Any]) -> str:
    """A fold's first few short values, so that it need not be opened."""
    words = [
        str(value) if key == "type" else f"{key} {show(value)}"
        for key, value in values.items()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    ]
    text = ", ".join(word for word in words if len(word) <= 32)
    return text if len(text) <= 96 else text[:96].rpartition(",")[0] + ", …"


def _seconds(nanoseconds: float) -> str:
    seconds = nanoseconds / 1e9
    return f"{seconds:.1f}s" if seconds < 60 else duration(seconds)


def _sample(sample: Mapping[str, Any]) -> str:
    prompt, text = str(sample.get("prompt", "")), str(sample.get("text", ""))
    text = text.removeprefix(prompt)
    cut = " …" if len(text) > MAX_SAMPLE_CHARS else ""
    return (
        f'<div class="text"><span class="prompt">{escape(prompt[:MAX_SAMPLE_CHARS])}</span>'
        f"{escape(text[:MAX_SAMPLE_CHARS])}{cut}</div>"
    )


def _confusion(classes: list[str], counts: list[list[int]]) -> str:
    """Rows are the true classes, columns the predicted; each row is shaded by its own total."""
    size = len(classes)
    rows = []
    for name, row in zip(classes[:MAX_CLASSES], counts, strict=False):
        total = max(sum(row), 1)
        cells = "".join(
            f'<td class="cell{" deep" if n / total > 0.55 else ""}" style="--p:{n / total:.0%}">'
            f"{show(n)}</td>"
            for n in row[:MAX_CLASSES]
        )
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in classes[:MAX_CLASSES])
    figures = []
    for i, name in enumerate(classes[:MAX_CLASSES]):
        hit, true, said = counts[i][i], sum(counts[i]), sum(row[i] for row in counts)
        figures.append(
            (name, _ratio(hit, said), _ratio(hit, true), _ratio(2 * hit, true + said), true)
        )
    every = [_f1(counts, i) for i in range(size)]
    correct, total = sum(counts[i][i] for i in range(size)), sum(map(sum, counts))
    cut = f" The first {MAX_CLASSES} of {size} classes." if size > MAX_CLASSES else ""
    return (
        '<div><h3>Confusion</h3><div class="scroll"><table class="confusion">'
        f"<thead><tr><th></th>{head}</tr></thead>{''.join(rows)}</table></div>"
        f'<p class="note">Rows: true class; columns: predicted.{cut}</p></div>'
        f"<div><h3>Accuracy {_ratio(correct, total)}, macro F1 {sum(every) / max(size, 1):.3f}</h3>"
        + table(["class", "precision", "recall", "F1", "examples"], figures)
        + "</div>"
    )


def _f1(counts: list[list[int]], i: int) -> float:
    both = sum(counts[i]) + sum(row[i] for row in counts)
    return 2 * counts[i][i] / both if both else 0.0


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.3f}" if whole else "–"
