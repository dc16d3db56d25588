"""Two texts a line with a tab between them, without a header: `Hello<TAB>Hallo`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.data.formats.base import Failed, Fit, LineFormat, Placed, Record, Sample, refuse

TRIED = 50  # lines by which it is decided


@dataclass(frozen=True, kw_only=True)
class TsvPairs(LineFormat):
    """lines of a source, a tab and its target, without a header"""

    task = "translation"

    def fit(self, sample: Sample) -> Fit:
        cells = [line.split("\t") for line in sample.lines[:TRIED] if line.strip()]
        if not sample.answered and cells and all(len(row) == 1 for row in cells):
            return Fit()  # sources alone
        if not cells or any(len(row) != 2 or not all(map(_has_letters, row)) for row in cells):
            return Fit((), ("lines of two texts with a tab between them",))
        right = {target for _, target in cells}
        if len(cells) > 3 and len(right) <= len(cells) / 3:
            return Fit((), ("different texts after the tab",))
        if not any(" " in text or not text.isascii() for row in cells for text in row):
            return Fit((), ("texts of several words",))
        return Fit(("source", "target"))

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        for here, line in items:
            if not line.strip():
                continue
            cells = line.split("\t")
            if len(cells) == 1 and not sample.answered:
                yield here, {"source": line}
            elif len(cells) != 2:
                wrong = f"{here}: has {len(cells)} cells; write a source, a tab and its target"
                failed(UserError(wrong))
            elif not all(cell.strip() for cell in cells):
                failed(UserError(f"{here}: one side is empty; fill it in or remove the line"))
            else:
                yield here, {"source": cells[0], "target": cells[1]}

    def write(self, records: Iterable[Record]) -> Iterator[str]:
        for record in records:
            sides = record["source"], record["target"]
            for text in sides:
                if len(text.splitlines()) > 1 or "\t" in text:
                    raise UserError(f"{shown(text)} has a tab or a line end; choose parallel")
            yield "\t".join(sides)


def _has_letters(text: str) -> bool:
    return any(map(str.isalpha, text))
