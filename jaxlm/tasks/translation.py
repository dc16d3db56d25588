"""Translation of a source into a target.

    data:
      type: records
      source: {type: files, files: pairs.tsv}
      task: {type: translation, encoder: true}
    objective: {type: seq2seq}

Rows are those of `jaxlm.tasks.sources`. The measures are sacreBLEU's BLEU, with its signature, and
chrF. BLEU's tokenizer follows the language of the targets: `zh` of Chinese, `char` of Japanese, and
`13a` of others.
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
from jaxlm.tasks.text_metrics import bleu, check_installed, chrf, language_of

TOKENIZERS = {"zh": "zh", "ja": "char"}
LOOKED_AT = 2000  # targets by which the language is found


@dataclass(frozen=True, kw_only=True)
class Translation(SourceTask):
    """A translation of a source."""

    bleu_tokenizer: str | None = field(
        None, "sacrebleu's, such as 13a, zh, char; null: by the targets' language"
    )

    def resolve(self, records: Records) -> Mapping[str, Any]:
        found = language_of(itertools.islice(records.column(self.target), LOOKED_AT))
        return {"bleu_tokenizer": self.bleu_tokenizer or TOKENIZERS.get(found, "13a")}

    def given(self, facts: Mapping[str, Any]) -> Self:
        return self.replace(bleu_tokenizer=facts["bleu_tokenizer"])

    def check_score(self) -> None:
        check_installed("sacrebleu.metrics")

    def score(self, predictions: Sequence[Any], records: Iterable[Record]) -> list[Measure]:
        """`predictions` are texts."""
        said, true = [str(text) for text in predictions], [r[self.target] for r in records]
        return [bleu(said, true, self.bleu_tokenizer or "13a"), chrf(said, true)]
