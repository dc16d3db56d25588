"""Versions, devices, machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import fields_table, flatten


@dataclass(frozen=True, kw_only=True)
class Environment(Section):
    """Versions, devices, machine."""

    title: ClassVar = "Environment"
    order: ClassVar = 90
    template: ClassVar = "{{ table }}"

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        found = fields_table(flatten(run.environment)) if run.environment else None
        return {"table": found} if found else None
