"""The context that an n-gram model used: how many tokens each order matched, and their bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.core.numbers import percent
from jaxlm.report.files import RunFiles
from jaxlm.report.sections.base import Section
from jaxlm.report.tables import table


@dataclass(frozen=True, kw_only=True)
class MatchedOrders(Section):
    """The longest stored n-gram that ends at each token of the evaluation."""

    title: ClassVar = "Matched context"
    order: ClassVar = 42  # after "Evaluation"
    template: ClassVar = """\
<p>The order of the longest stored n-gram that ends at each token: a token of order 1 is predicted
without a context.</p>
{{ table }}
"""

    def data(self, run: RunFiles) -> dict[str, Any] | None:
        found = run.result.get("matched_orders")
        rows = found.get("rows") if isinstance(found, dict) else None
        if not rows:
            return None
        cells = []
        longer = 1.0
        for order, share, bits in rows:
            shown = "" if bits is None else f"{bits:.3f}"
            cells.append([order, percent(share), percent(max(longer, 0.0)), shown])
            longer -= share
        head = ["order", "tokens", "this order or longer", "bits a token"]
        return {"table": table(head, cells)}
