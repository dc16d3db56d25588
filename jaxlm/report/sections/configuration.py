"""Every field of the config, a fold for each of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import fields_table, flatten, show


@dataclass(frozen=True, kw_only=True)
class Configuration(Section):
    """Every field of the config, and where it was set."""

    title: ClassVar = "Configuration"
    order: ClassVar = 60
    template: ClassVar = """\
{% for b in blocks %}
<details><summary><b>{{ b.name }}</b>{{ b.gist }}</summary>{{ b.fields }}</details>
{% endfor %}
"""

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        plain = {k: v for k, v in run.config.items() if not isinstance(v, Mapping)}
        parts = {k: v for k, v in run.config.items() if isinstance(v, Mapping)}
        blocks: list[tuple[str, str, Mapping[str, Any]]] = [("run", "", plain)]
        blocks += [(key, f"{key}.", value) for key, value in parts.items()]
        sources = run.marks or None
        found = [
            {
                "name": name,
                "gist": _gist(value),
                "fields": fields_table(flatten(value), sources, prefix),
            }
            for name, prefix, value in blocks
            if value
        ]
        return {"blocks": found} if found else None


def _gist(values: Mapping[str, Any]) -> str:
    """A fold's first few short values, so that it need not be opened."""
    words = [
        str(value) if key == "type" else f"{key} {show(value)}"
        for key, value in values.items()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    ]
    text = ", ".join(word for word in words if len(word) <= 32)
    return text if len(text) <= 96 else text[:96].rpartition(",")[0] + ", …"
