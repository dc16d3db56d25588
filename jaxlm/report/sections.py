"""The sections of a report, each from `RunFiles` to HTML; "" where there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxlm.core.numbers import duration, human
from jaxlm.report.confusion import confusion_table
from jaxlm.report.files import RunFiles
from jaxlm.report.tables import clock, escape, fields_table, flatten, show, table, tree
from jaxlm.runs.stopwatch import percentages
from jaxlm.runs.trackers import extent

MAX_SAMPLE_STEPS = 24
MAX_SAMPLES_PER_STEP = 6
MAX_SAMPLE_CHARS = 3000
MAX_SAMPLE_BYTES = 600_000  # of all samples together
HEADLINE_ONLY = {"num_params", "tokens"}  # figures of a result that are no measurement of it


def timing(run: RunFiles) -> str:
    """The stopwatch's times as a bar and a table; the shares sum to 100."""
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
    parts = [table([f"on {extent(run.result.get('evaluated'))}", ""], figures)] if figures else []
    confusion = run.result.get("confusion")
    if confusion:
        parts.append(confusion_table(confusion["classes"], confusion["table"]))
    return f'<div class="side">{"".join(parts)}</div>' if parts else ""


def samples(run: RunFiles) -> str:
    """What the model wrote, newest first; a long run is shown at steps spread over it."""
    records = list({record["step"]: record for record in run.samples}.values())
    if not records:
        return ""
    count = min(len(records), MAX_SAMPLE_STEPS)
    chosen = sorted({round(i * (len(records) - 1) / max(count - 1, 1)) for i in range(count)})
    losses = dict(zip(*run.curve("loss"), strict=True))
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
    """The checkpoints in the run's folder."""
    rows = [
        (
            c.step,
            f"{human(c.size_bytes)}B",
            clock(c.time),
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
