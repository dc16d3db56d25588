"""Prompts to be answered, one a line of plain text: for `jaxlm predict` with a run that answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlm.data.formats.base import Failed, Fit, LineFormat, Placed, Record, Sample, refuse


@dataclass(frozen=True, kw_only=True)
class PromptLines(LineFormat):
    """lines of prompts without answers, to predict for"""

    task = "prompt_completion"

    def fit(self, sample: Sample) -> Fit:
        lines = not sample.answered and not sample.columns and any(map(str.strip, sample.lines))
        return Fit() if lines else Fit((), ("lines that are to be answered",))

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        for here, line in items:
            if line.strip():
                yield here, {"prompt": line}
