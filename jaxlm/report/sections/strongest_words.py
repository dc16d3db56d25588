"""The words, or n-grams, that speak most for each class, of a model over bags of words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import table


@dataclass(frozen=True, kw_only=True)
class StrongestWords(Section):
    """The strongest words of each class."""

    title: ClassVar = "Strongest words"
    order: ClassVar = 42
    template: ClassVar = """\
<div class="side">{% for part in parts %}{{ part }}{% endfor %}</div>
<p class="note">A word's figure is its score for the class less its mean score over all classes.</p>
"""

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        found = run.result.get("strongest")
        if not found:
            return None
        pairs = zip(found["classes"], found["features"], strict=True)
        parts = [
            table([name, ""], [(word, f"{strength:+.3f}") for word, strength in own], right=[""])
            for name, own in pairs
            if own
        ]
        return {"parts": parts} if parts else None
