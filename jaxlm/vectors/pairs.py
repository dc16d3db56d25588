"""Similarities of word pairs against those that people gave, as gensim's `evaluate_word_pairs`.

    # Word 1	Word 2	Human (mean)
    love	sex	6.77

    found = score_pairs(table, "wordsim353.tsv")
    found.spearman                       # the correlation of the ranks

The similarity of two words is the cosine of their vectors; upper and lower case are the same. Pairs
with a word that has no vector among the first 300,000, and lines without a pair, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.vectors.questions import MOST_WORDS, folded, text_lines
from jaxlm.vectors.table import WordVectors


@dataclass(frozen=True)
class PairScore:
    """The correlations over the pairs whose words both have vectors."""

    spearman: float
    pearson: float
    pairs: int
    unknown: int  # pairs with a word that has no vector
    skipped: int = 0  # lines without two words and a number, besides comments

    @property
    def unknown_share(self) -> float:
        return self.unknown / (self.pairs + self.unknown)


def score_pairs(table: WordVectors, path: str | Path, *, most_words: int = MOST_WORDS) -> PairScore:
    """The correlations for a file of pairs. Raises `UserError` where fewer than two are known."""
    first = folded(table.words[:most_words])
    left, right, human, unknown, skipped = [], [], [], 0, 0
    for _, line in text_lines(Path(path)):
        if line.startswith("#") or not line.strip():
            continue
        fields = [field.upper() for field in line.split("\t")]
        try:
            a, b, value = fields[0], fields[1], float(fields[2])
        except (ValueError, IndexError):
            skipped += 1
            continue
        if len(fields) != 3:
            skipped += 1
            continue
        if a not in first or b not in first:
            unknown += 1
            continue
        left.append(first[a])
        right.append(first[b])
        human.append(value)
    if len(human) < 2:
        raise UserError(
            f"{path}: fewer than two pairs have vectors for both words; a line is WORD<tab>WORD"
            "<tab>NUMBER"
        )
    cosines = (table.unit[left] * table.unit[right]).sum(1)
    given = np.array(human)
    return PairScore(
        spearman=correlation(ranks(given), ranks(cosines)),
        pearson=correlation(given, cosines.astype(np.float64)),
        pairs=len(human),
        unknown=unknown,
        skipped=skipped,
    )


def ranks(values: np.ndarray) -> np.ndarray:
    """[n] the rank of each value from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; nan where one side is constant."""
    a, b = a - a.mean(), b - b.mean()
    with np.errstate(invalid="ignore"):
        return float((a @ b) / np.sqrt((a @ a) * (b @ b)))
