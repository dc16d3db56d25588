"""The final measures of a run, and its tables, such as a confusion table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.report.confusion import confusion_table
from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import table
from jaxlm.runs.trackers import extent


@dataclass(frozen=True, kw_only=True)
class Evaluation(Section):
    """The final measures."""

    title: ClassVar = "Evaluation"
    order: ClassVar = 40
    template: ClassVar = '<div class="side">{% for part in parts %}{{ part }}{% endfor %}</div>'

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        own = [m for m in run.finals() if "/" in m.name and not m.baseline]
        figures = [(f"{m.title} ({m.note})" if m.note else m.title, m.value) for m in own]
        where = f"on {extent(run.result.get('evaluated'))}"
        parts = [table([where, ""], figures)] if figures else []
        parts += [confusion_table(t["classes"], t["table"]) for t in run.tables()]
        return {"parts": parts} if parts else None
