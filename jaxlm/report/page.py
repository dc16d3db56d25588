"""The page of a run's report: its frame and its headline figures."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import jaxlm
from jaxlm.core.numbers import duration, human
from jaxlm.report import sections, timeline
from jaxlm.report.files import RunFiles, time_of
from jaxlm.report.tables import escape


def render(run: RunFiles) -> str:
    """The whole page."""
    parts = {
        "Curves": timeline.curves(run),
        "Events": timeline.events(run),
        "Where the time went": sections.timing(run),
        "Evaluation": sections.evaluation(run),
        "Samples": sections.samples(run),
        "Configuration": sections.configuration(run),
        "Data": sections.data(run),
        "Checkpoints": sections.checkpoints(run),
        "Environment": sections.environment(run),
    }
    body = "\n".join(
        f"<section><h2>{title}</h2>{part}</section>" for title, part in parts.items() if part
    )
    return document(run.name, header(run) + body + f"\n<footer>{footer(run)}</footer>")


def document(title: str, body: str) -> str:
    """A complete page around `body`, with its style and script inline; nothing is fetched.

    Its content security policy forbids every other script, whatever a sample or a config holds.
    """
    folder = Path(__file__).parent
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = (folder / "script.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>\n<body><main>\n"
        f"{body}\n</main>\n<script>{script}</script></body></html>\n"
    )


def header(run: RunFiles) -> str:
    """Title, state of the run and its headline figures."""
    problems = "".join(f'<p class="note">{escape(text)}</p>' for text in run.problems)
    cells = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>"
        for label, text in headlines(run)
    )
    final = run.result.get("final", {})
    hashes = "".join(
        f'<div><dt>SHA-256 of the {label}</dt><dd class="mono">{escape(final[key])}</dd></div>'
        for key, label in (("param_sha256", "parameters"), ("config_sha256", "configuration"))
        if key in final
    )
    return (
        f'<header><p class="kind">{escape(_kind(run))}</p><h1>{escape(run.name)}</h1>'
        f'<p class="status">{escape(status(run))}</p>{problems}'
        + (f'<dl class="figures">{cells}</dl>' if cells else "")
        + (f'<dl class="hashes">{hashes}</dl>' if hashes else "")
        + "</header>\n"
    )


def headlines(run: RunFiles) -> list[tuple[str, str]]:
    """(label, text) of each headline figure that the run has."""
    found: list[tuple[str, str]] = []

    def add(label: str, value: float | None, form: Callable[[float], str]) -> None:
        if value is not None:
            found.append((label, form(value)))

    add("bits per character", run.last("eval/bits_per_char"), lambda v: f"{v:.3f}")
    add("bits per byte", run.last("eval/bits_per_byte"), lambda v: f"{v:.3f}")
    add("accuracy", run.last("eval/accuracy"), lambda v: f"{v:.1%}")
    add("macro F1", run.last("eval/macro_f1"), lambda v: f"{v:.3f}")
    add("validation loss", run.last("eval/loss"), lambda v: f"{v:.3f}")
    add("training loss", run.last("train/loss"), lambda v: f"{v:.3f}")
    add("parameters", run.last("num_params"), human)
    add("tokens", run.last("tokens") or run.last("train/tokens"), human)
    add("tokens/s, median", run.median("train/tokens_per_second"), human)
    add("MFU, median", run.median("train/mfu"), lambda v: f"{v:.1%}")
    spent = sum(run.timing.get("nanoseconds", {}).values()) / 1e9
    add("wall time", spent or None, duration)
    return found


def status(run: RunFiles) -> str:
    """How far the run is, when it ran, and how often it was resumed and rolled back."""
    steps = (run.config.get("train") or {}).get("steps")
    done = f"{run.step:,} steps" if run.result else f"step {run.step:,}"
    if not run.result:
        done += f" of {steps:,}" if isinstance(steps, int) else ""
        done += ", not finished"
    parts = [done]
    times = [at for at in map(time_of, run.metrics) if at]
    if times:
        at = time.localtime(times[-1])
        parts.append(f"{at.tm_mday} {time.strftime('%B %Y, %H:%M', at)}")
    for event, word in (("resume", "resumed"), ("rollback", "rolled back")):
        if count := len(run.events(event)):
            parts.append(f"{word} {'once' if count == 1 else f'{count} times'}")
    return " · ".join(parts)


def footer(run: RunFiles) -> str:
    """Who wrote the page, and the meaning of the figures on it that need one."""
    parts = [f"Written by jaxlm {escape(jaxlm.__version__)} from the files of the run."]
    if run.median("train/mfu") is not None:
        parts.append("MFU = 3 × forward FLOPs per token × tokens/s / peak FLOP/s of all devices.")
    if run.median("train/tokens_per_second") is not None:
        parts.append("tokens/s counts real tokens, no padding.")
    return " ".join(parts)


# ---------------------------------------------------------------------------------------- the parts


def _kind(run: RunFiles) -> str:
    """ "transformer · causal_lm · 6 layers of 384": the types the config names, and its size."""
    model, objective = run.config.get("model") or {}, run.config.get("objective") or {}
    layers, width = model.get("num_layers"), model.get("hidden_size")
    size = f"{layers} layers of {width}" if layers and width else None
    words = [model.get("type"), objective.get("type"), size]
    return " · ".join(str(word).replace("_", " ") for word in words if word) or "training run"
