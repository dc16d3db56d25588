"""A summary of a document.

    data:
      type: records
      source: {type: files, files: news.jsonl}       # {"document": "...", "summary": "..."}
      task: {type: summarisation, too_long: cut}
    objective: {type: causal_lm}

Rows are those of `jaxlm.tasks.sources`. The measures are ROUGE-1, ROUGE-2 and ROUGE-L, of
characters where the summaries are Chinese or Japanese.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from jaxlm.core.config import field
from jaxlm.core.measures import Measure
from jaxlm.tasks.base import Record, Records
from jaxlm.tasks.sources import SourceTask
from jaxlm.tasks.text_metrics import check_installed, language_of, rouge

LOOKED_AT = 2000  # summaries by which the language is found


@dataclass(frozen=True, kw_only=True)
class Summarisation(SourceTask):
    """A summary of a source."""

    language: str | None = field(
        None, "the summaries' language: zh and ja are compared by characters; null: found"
    )

    def resolve(self, records: Records) -> Mapping[str, Any]:
        found = language_of(itertools.islice(records.column(self.target), LOOKED_AT))
        return {"language": found if self.language is None else self.language}

    def given(self, facts: Mapping[str, Any]) -> Self:
        return self.replace(language=facts["language"])

    def check_score(self) -> None:
        check_installed("rouge_score.rouge_scorer")

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """`predictions` are texts."""
        said, true = [str(text) for text in predictions], [r[self.target] for r in records]
        return rouge(said, true, self.language or "")
