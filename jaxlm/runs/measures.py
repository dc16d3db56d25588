"""The displays of a run's measures: measures.json, {key of metrics.jsonl: how it is shown}.

    displays = read_displays(run)
    displays["eval/loss"]                   # {"better": "lower", "show": "headline", ...}
    for measure in final_measures(run, result): print(measure.title, measure.text)

A run of an older version has no such file: its measures are plain figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jaxlm.core.errors import UserError
from jaxlm.core.measures import Measure, from_display
from jaxlm.runs.files import read_own
from jaxlm.runs.folder import RunDir

Displays = dict[str, dict[str, Any]]


def read_displays(run: RunDir) -> Displays:
    """{key: `Measure.display`}; {} where there is no such file, or a damaged one."""
    try:
        found = read_own(run, run.measures)
    except (FileNotFoundError, UserError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, dict)}


def final_measures(run: RunDir, result: Mapping[str, Any]) -> list[Measure]:
    """The measures of a run's result, in order: its figures, then its tables."""
    displays = read_displays(run)
    found = [from_display(k, v, displays.get(k)) for k, v in result.get("final", {}).items()]
    tables = [
        from_display(key, value, {**displays.get(key, {}), "show": "table"})
        for key, value in result.items()
        if isinstance(value, dict) and {"classes", "table"} <= value.keys()
    ]
    return [*found, *tables]


def merged(displays: Displays, measures: Iterable[Measure]) -> Displays:
    """`displays` with those of `measures`; equal to it where they say nothing new."""
    return {**displays, **{measure.name: measure.display for measure in measures}}
