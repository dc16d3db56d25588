"""Two texts and a label, as in GLUE: `sentence1,sentence2,label`, `premise,hypothesis,label`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxlm.data.formats.base import Fit, Record, Row, RowFormat, Sample, text_of
from jaxlm.data.formats.classification import LABEL, labelled, no_label

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text", "text_b"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("text", "text_pair"),
    ("query", "passage"),
    ("#1 String", "#2 String"),  # MRPC's own files
)
# The names of GLUE's files beside those of one text.
PAIR_LABEL = (*LABEL, "is_duplicate", "gold_label", "Quality")


@dataclass(frozen=True, kw_only=True)
class Pairs(RowFormat):
    """two texts (`sentence1`, `sentence2`; `premise`, `hypothesis`; ...) and a `label`"""

    task = "classification"
    needs = ("text", "text_b", "|".join(PAIR_LABEL))
    answers = ("|".join(PAIR_LABEL),)
    keeps = ("text_b",)

    def fit(self, sample: Sample) -> Fit:
        known = dict(sample.rows[0][1]) if sample.rows else {}
        names = _names({**dict.fromkeys(sample.columns), **known})
        label = [name for name in PAIR_LABEL if name in sample.columns][: int(sample.answered)]
        found = [name for name in names if name in sample.columns]
        missing = [name for name in names if name not in sample.columns]
        if sample.answered and not label:
            missing.append("label")
        missing = missing or [lack for name in label for lack in no_label(sample, name)]
        return Fit((*found, *label), tuple(missing))

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        return [lack for name in names.values() for lack in no_label(sample, name)]

    def record(self, row: Row, sample: Sample) -> Record:
        first, second = _names(row)
        record = {"text": text_of(row, first), "text_b": text_of(row, second)}
        return record | (labelled(row, sample, PAIR_LABEL) if sample.answered else {})

    @property
    def written(self) -> tuple[str, ...]:
        return "text", "text_b", "label"

    def row(self, record: Record) -> dict[str, Any]:
        names = {"sentence1": "text", "sentence2": "text_b", "label": "label"}
        return {name: record[own] for name, own in names.items()}


def _names(row: Row) -> tuple[str, str]:
    """The two columns of a pair: those of which the row has the most."""
    return max(PAIRS, key=lambda pair: sum(name in row for name in pair))
