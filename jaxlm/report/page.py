"""The page of a run's report: its headline figures and its sections."""

from __future__ import annotations

import time

import jaxlm
from jaxlm.core.numbers import duration
from jaxlm.report.files import RunFiles, time_of
from jaxlm.report.html import page
from jaxlm.report.sections.base import rendered


def render(run: RunFiles) -> str:
    """The whole page."""
    sections, problems = rendered(run)
    return page(
        run.name,
        kind=_kind(run),
        heading=run.name,
        status=status(run),
        notes=[*run.problems, *problems],
        figures=headlines(run),
        texts=[(m.title, m.value) for m in run.texts()],
        sections=sections,
        footer=footer(run),
    )


def headlines(run: RunFiles) -> list[tuple[str, str]]:
    """(label, text) of each headline figure that the run has."""
    found = [(run.title(m), m.text) for m in run.headlines()]
    spent = sum(run.timing.get("nanoseconds", {}).values()) / 1e9
    return [*found, ("wall time", duration(spent))] if spent else found


def status(run: RunFiles) -> str:
    """The run's progress, when it ran, and how often it was resumed and rolled back."""
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
    """The author of the page, and the meaning of the figures on it that need one."""
    parts = [f"Written by jaxlm {jaxlm.__version__} from the files of the run."]
    rates = [m for m in map(run.measure, run.measured) if m.summary == "median"]
    parts += [m.note for m in rates if m.note and run.median(m.name) is not None]
    return " ".join(parts)


def _kind(run: RunFiles) -> str:
    """ "transformer · causal_lm · 6 layers of 384": the types the config names, and its size."""
    model, objective = run.config.get("model") or {}, run.config.get("objective") or {}
    layers, width = model.get("num_layers"), model.get("hidden_size")
    size = f"{layers} layers of {width}" if layers and width else None
    words = [model.get("type"), objective.get("type"), size]
    named = dict.fromkeys(str(word).replace("_", " ") for word in words if word)
    return " · ".join(named) or "training run"
