"""Metrics of written texts: BLEU and chrF by sacrebleu, ROUGE by rouge-score.

    bleu(["Speichern Sie die Datei."], ["Speichern Sie diese Datei."], "13a")    # Measure in 0..100

BLEU (Papineni et al. 2002) and chrF (Popovic 2015) carry sacreBLEU's signature (Post 2018,
arXiv:1804.08771): figures of equal signatures can be compared. ROUGE (Lin 2004) is F1, the mean
over texts, of words without inflections of English, of characters in Chinese and Japanese. All are
in [0, 100]; a corpus without texts has 0.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxlm.core.measures import Measure
from jaxlm.core.optional import need

EXTRA = "metrics"
BLEU = Measure("bleu", better="higher", show="headline", label="BLEU", format=".1f")
CHRF = Measure("chrf", better="higher", show="headline", label="chrF", format=".1f")
ROUGE = {
    "rouge1": Measure("rouge1", better="higher", show="headline", label="ROUGE-1", format=".1f"),
    "rouge2": Measure("rouge2", better="higher", show="headline", label="ROUGE-2", format=".1f"),
    "rougeL": Measure("rougeL", better="higher", show="headline", label="ROUGE-L", format=".1f"),
}
HAN, KANA = re.compile(r"[\u3400-\u9fff]"), re.compile(r"[\u3040-\u30ff]")
CHARACTERS = ("zh", "ja")  # languages whose words have no spaces between them
UNIT = re.compile(r"[a-z0-9]+|[^\s\w]|\w", re.IGNORECASE)


def bleu(said: Sequence[str], true: Sequence[str], tokenizer: str) -> Measure:
    """Corpus BLEU; tokenizer: one of sacrebleu's, such as 13a, zh, char, intl."""
    metric = need("sacrebleu.metrics", EXTRA, "BLEU").BLEU(tokenize=tokenizer)
    return _scored(metric, BLEU, said, true)


def chrf(said: Sequence[str], true: Sequence[str]) -> Measure:
    """Corpus chrF, of character 6-grams."""
    return _scored(need("sacrebleu.metrics", EXTRA, "chrF").CHRF(), CHRF, said, true)


def _scored(metric: Any, measure: Measure, said: Sequence[str], true: Sequence[str]) -> Measure:
    if not said:
        return measure.of(0.0)
    score = float(metric.corpus_score(list(said), [list(true)]).score)
    return dataclasses.replace(measure.of(score), note=str(metric.get_signature()))


def rouge(said: Sequence[str], true: Sequence[str], language: str) -> list[Measure]:
    """ROUGE-1, ROUGE-2 and ROUGE-L."""
    scorers = need("rouge_score.rouge_scorer", EXTRA, "ROUGE")
    own = {"tokenizer": Characters()} if language in CHARACTERS else {"use_stemmer": True}
    scorer = scorers.RougeScorer([*ROUGE], **own)
    sums = dict.fromkeys(ROUGE, 0.0)
    for a, b in zip(said, true, strict=True):
        for name, score in scorer.score(b, a).items():
            sums[name] += score.fmeasure
    return [m.of(100 * sums[name] / max(len(said), 1)) for name, m in ROUGE.items()]


def check_installed(*modules: str) -> None:
    """Raises `UserError` for a package that the metrics need and that is not installed."""
    for module in modules:
        need(module, EXTRA, "the score of written texts")


class Characters:
    """A tokenizer of rouge-score: characters, and words of Latin letters and digits."""

    def tokenize(self, text: str) -> list[str]:
        return UNIT.findall(text.lower())


def language_of(texts: Iterable[str]) -> str:
    """zh or ja where at least a third of the letters are Chinese characters or kana; else ""."""
    han = kana = letters = 0
    for text in texts:
        han, kana = han + len(HAN.findall(text)), kana + len(KANA.findall(text))
        letters += sum(map(str.isalpha, text))
    if 3 * (han + kana) < letters or not letters:
        return ""
    return "ja" if 10 * kana > han + kana else "zh"
