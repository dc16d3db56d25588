"""The run's time by category: the stopwatch's times as a bar and a table; the shares sum to 100."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.core.numbers import duration
from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.runs.stopwatch import percentages


@dataclass(frozen=True, kw_only=True)
class Time(Section):
    """The run's time by category."""

    title: ClassVar = "Where the time went"
    order: ClassVar = 30
    template: ClassVar = """\
<div class="bar">
{%- for p in parts -%}
<i class="{{ p.name }}" style="flex:{{ p.spent }} 1 0" title="{{ p.name }} {{ p.share }}%"></i>
{%- endfor -%}
</div><table class="time">
{%- for p in parts -%}
<tr><td class="swatch {{ p.name }}">{{ p.name }}</td><td class="n">{{ p.text }}</td>
{#- #}<td class="n">{{ "%.1f" % p.share }}%</td></tr>
{%- endfor -%}
<tfoot><tr><th>wall time</th><td class="n">{{ total }}</td><td class="n">100.0%</td></tr></tfoot>
</table>
{%- if processes > 1 %}<p class="note">Over {{ processes }} processes of this run.</p>{% endif %}
"""

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        spent = {k: v for k, v in run.timing.get("nanoseconds", {}).items() if v > 0}
        if not spent:
            return None
        spent = dict(sorted(spent.items(), key=lambda pair: -pair[1]))
        shares = percentages(spent)
        return {
            "parts": [
                {"name": name, "spent": value, "share": shares[name], "text": _seconds(value)}
                for name, value in spent.items()
            ],
            "total": _seconds(sum(spent.values())),
            "processes": run.timing.get("processes", 1),
        }


def _seconds(nanoseconds: float) -> str:
    seconds = nanoseconds / 1e9
    return f"{seconds:.1f}s" if seconds < 60 else duration(seconds)
