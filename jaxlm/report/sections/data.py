"""The data manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import tree


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    """The data manifest."""

    title: ClassVar = "Data"
    order: ClassVar = 70
    template: ClassVar = "{{ table }}"

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        found = tree(run.manifest) if run.manifest else None
        return {"table": found} if found else None
