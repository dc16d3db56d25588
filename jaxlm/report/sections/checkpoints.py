"""The checkpoints in the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.core.numbers import human
from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import clock, table


@dataclass(frozen=True, kw_only=True)
class Checkpoints(Section):
    """The checkpoints in the run's folder."""

    title: ClassVar = "Checkpoints"
    order: ClassVar = 80
    template: ClassVar = "{{ table }}"

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        rows = [
            (c.step, f"{human(c.size_bytes)}B", clock(c.time), c.kept_reason)
            for c in run.checkpoints
        ]
        return {"table": table(["step", "size", "saved", "state"], rows)} if rows else None
