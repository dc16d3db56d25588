"""One class for a pair of texts: paraphrase, entailment, whether a text answers a question.

    data:
      type: records
      source: {type: csv, files: pairs.csv}
      task: {type: pair, text: premise, text_b: hypothesis, label: label}

A row is [bos] text [eos] text_b [eos] (`jaxlm.tasks.texts`). The measures are those of
classification.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.core.config import field
from jaxlm.tasks.base import Record
from jaxlm.tasks.classification import Classification


@dataclass(frozen=True, kw_only=True)
class Pair(Classification):
    """One class for two texts."""

    text_b: str = field("text_b", "the column of the second text")

    def prompt(self, record: Record) -> str:
        return "\n".join(record[column] for column in self.parts)
