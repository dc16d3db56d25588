"""Resumes with what they changed, rollbacks, accepted changes of the data, in order of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.report.files import RunFiles, time_of
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import clock, table


@dataclass(frozen=True, kw_only=True)
class Events(Section):
    """The events of the run; left out where it has only its start."""

    title: ClassVar = "Events"
    order: ClassVar = 20
    template: ClassVar = "{{ table }}"

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        found = [(r, _resumed(r)) for r in run.events("resume")]
        found += [(r, _rolled_back(r)) for r in run.events("rollback")]
        for record in run.identity.get("accepted") or ():
            text = f"changed data accepted ({record['flag']}): {record['change']}"
            found.append((record, text))
        if not found:
            return None
        found += [(record, "started") for record in run.events("start")]
        rows = sorted((time_of(record), record["step"], text) for record, text in found)
        cells = [(clock(at or None), step, text) for at, step, text in rows]
        return {"table": table(["time", "step", "event"], cells, "events")}


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
