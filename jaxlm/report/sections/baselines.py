"""The model beside what is reached without a neural network, with the seconds that each took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.core.measures import compared, model_key, not_beaten
from jaxlm.core.numbers import duration
from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import table


@dataclass(frozen=True, kw_only=True)
class Baselines(Section):
    """The model and its baselines."""

    title: ClassVar = "Baselines"
    order: ClassVar = 41
    template: ClassVar = """\
{{ table }}
{% for line in lines %}<p class="note"><b>{{ line[:1] | upper }}{{ line[1:] }}.</b></p>{% endfor %}
"""

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        finals = run.finals()
        pairs = compared(finals)
        if not pairs:
            return None
        columns = list({each.model.name: each.model for each in pairs}.values())
        rows: dict[str, dict[str, str]] = {}
        for measure in finals:
            if measure.baseline:
                own = rows.setdefault(measure.baseline, {})
                shown = {m.name: m for m in columns}.get(model_key(measure.name), measure)
                own[model_key(measure.name)] = shown.shown(measure.value)
        seconds = next((k for row in rows.values() for k in row if k.endswith("/seconds")), "")
        spent = sum(run.timing.get("nanoseconds", {}).values()) / 1e9
        model = {m.name: m.text for m in columns} | ({seconds: duration(spent)} if spent else {})
        names = [m.name for m in columns] + [seconds]
        body = [
            [name, *(row.get(key, "") for key in names)]
            for name, row in {"the model": model, **rows}.items()
        ]
        head = ["", *(run.title(m) for m in columns), "time"]
        lines = not_beaten(finals)
        return {"table": table(head, body, right=head[1:]), "lines": lines}
