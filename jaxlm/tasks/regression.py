"""A number for a text or for a pair: similarity, a grade, a price.

    data:
      type: records
      source: {type: csv, files: similarity.csv}
      task: {type: regression, text: sentence1, text_b: sentence2, label: score}

The measures are those of GLUE's STS-B, with ranks that average ties, beside the mean squared error:

    Pearson   r = sum (x - mean x) (y - mean y) / sqrt(sum (x - mean x)^2 sum (y - mean y)^2)
    Spearman  the Pearson correlation of the ranks
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import Entry
from jaxlm.tasks.base import Arrays, LeftOut, Record, Records
from jaxlm.tasks.texts import TextTask, number

PEARSON = Measure("pearson", better="higher", show="headline", format=".3f")
SPEARMAN = Measure("spearman", better="higher", format=".3f")
ERROR = Measure("mse", better="lower", label="mean squared error")


@dataclass(frozen=True, kw_only=True)
class Regression(TextTask):
    """A number for a text or a pair."""

    scored: ClassVar[bool] = True
    baseline_title: ClassVar[str] = "mean"

    text_b: str | None = field(None, "the column of a second text; null: one text")
    label: str = field("label", "the column of the number")

    @property
    def columns(self) -> tuple[str, ...]:
        return *self.parts, self.label

    def expand(self, record: Record) -> list[Record]:
        texts, value = self._texts_of(record), number(record[self.label], self.label)
        if value is None:
            raise LeftOut("unlabelled")
        return [{**texts, self.label: value}]

    def _target_rows(self) -> dict[str, Entry]:
        return {"labels": Entry((), np.float32)}

    def _target(self, record: Record) -> Arrays:
        return {"labels": np.float32(record[self.label])}

    def _placeholder(self) -> Record:
        return {self.label: 0.0}

    def show(self, row: Mapping[str, Any]) -> str:
        return f"number {float(row['labels']):g}"

    # -------------------------------------------------------------------------- predicted

    def prediction(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """{"value": the number}; arrays: `values` []."""
        return {"value": float(arrays["values"])}

    def said(self, prediction: Mapping[str, Any]) -> Any:
        return prediction["value"]

    # --------------------------------------------------------------------------- measured

    def baseline(self, train: Records) -> Callable[[Record], Any]:
        """The mean of the training records, whose correlation is 0."""
        mean = float(np.mean([*train.column(self.label)] or [0.0]))
        return lambda record: mean

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """`predictions` are numbers."""
        true = np.array([record[self.label] for record in records], np.float64)
        said = np.array(predictions, np.float64)
        return [
            PEARSON.of(correlation(said, true)),
            SPEARMAN.of(correlation(ranks(said), ranks(true))),
            ERROR.of(float(np.mean((said - true) ** 2)) if len(true) else 0.0),
        ]


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r of two [n] arrays; 0 where one of them is constant."""
    if len(x) < 2:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread > 1e-12 else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """The ranks from 1 of [n] values; equal values have the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[index]
