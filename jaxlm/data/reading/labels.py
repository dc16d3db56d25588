"""The class of a labelled row: a column's own values, mapped values, or a score cut into bins.

    Labels(label_column="score", label_bins=(
        LabelBin(name="negative", below=-0.5), LabelBin(name="positive", above=0.5)))

gives "negative", "positive", or no label at all to the scores between, whose rows are left out
and counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import REQUIRED, Config, UserError, field
from jaxlm.core.errors import shown
from jaxlm.data.reading.rows import cell


@dataclass(frozen=True, kw_only=True)
class LabelBin(Config):
    """A class by score: above < score < below."""

    name: str = field(REQUIRED, "the class of the rows in this bin")
    above: float | None = field(None, "scores must be greater than this")
    below: float | None = field(None, "scores must be less than this")

    def validate(self) -> None:
        if self.above is None and self.below is None:
            raise UserError(f"bin {shown(self.name)} has no limit; set above, below or both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise UserError(f"bin {shown(self.name)} is empty; set above less than below")


@dataclass(frozen=True, kw_only=True)
class Labels(Config):
    """The column of a row's class, and its rules. Rows that get none are left out and counted."""

    label_column: str | None = field(None, "the column that holds the class or the score")
    label_map: dict[str, str] = field(dict, "value -> class; rows of other values are left out")
    label_bins: tuple[LabelBin, ...] = field((), "classes by score; rows in no bin are left out")

    def validate(self) -> None:
        if (self.label_map or self.label_bins) and not self.label_column:
            raise UserError("label_map and label_bins need a column; set label_column")
        if self.label_map and self.label_bins:
            raise UserError("label_map and label_bins cannot both be set; remove one")

    def label(self, row: Mapping[str, Any], here: str, counts: Counter[str]) -> str | None:
        """The row's class; None, and a count, where it has none."""
        assert self.label_column is not None
        value = cell(row, self.label_column, here)
        if isinstance(value, str):
            value = value.strip()  # " neg" and "neg" are one class
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            counts["unlabelled"] += 1
            return None
        if isinstance(value, bytes | list | tuple | dict):
            raise UserError(
                f"{here}: column {shown(self.label_column)} holds a {type(value).__name__}, not a "
                "class; set label_column to a column of texts or numbers"
            )
        if self.label_bins:
            label = self._bin(value, here)
            counts["in no label bin"] += label is None
            return label
        # JSON's spelling, so that a map written in YAML as true: matches.
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if not self.label_map:
            return text
        label = {key.strip(): name for key, name in self.label_map.items()}.get(text)
        counts["not in label_map"] += label is None
        return label

    def _bin(self, value: Any, here: str) -> str | None:
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = math.nan
        if math.isnan(score):
            raise UserError(
                f"{here}: column {shown(self.label_column)} holds {shown(value)}, not a number; "
                "correct the row, or use label_map instead of label_bins"
            )
        names = [
            b.name
            for b in self.label_bins
            if (b.above is None or score > b.above) and (b.below is None or score < b.below)
        ]
        if len(names) > 1:
            raise UserError(
                f"{here}: score {score} is in the bins {' and '.join(names)}; separate the bins"
            )
        return names[0] if names else None
