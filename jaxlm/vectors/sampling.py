"""Which words a model of word vectors keeps, and which it draws as negatives (word2vec.c).

With f(w) the share of word w among all words, and t the threshold `sample`,

    p(keep w)     = min(1, (sqrt(f / t) + 1) t / f)         Mikolov et al. 2013, as its code has it
    p(negative w) = count(w) ** power / sum_v count(v) ** power

    keep = keep_probability(counts, sample=1e-3)              # [V]
    negatives = Drawing(counts, power=0.75)(strata(rng, blocks, 80))
"""

from __future__ import annotations

import numpy as np

PARTS, MOST_PARTS = 64, 1 << 22  # of [0, 1), for each word and at most


def keep_probability(counts: np.ndarray, sample: float) -> np.ndarray:
    """[V] float64: how likely each occurrence of a word is kept; 0 for a word without a count.

    sample: 0 keeps all words.
    """
    counts = np.asarray(counts, np.float64)
    if not sample:
        return (counts > 0).astype(np.float64)
    share = np.maximum(counts, 1) / (sample * counts.sum())
    return np.where(counts > 0, np.minimum(1, (np.sqrt(share) + 1) / share), 0)


def strata(rng: np.random.RandomState, rows: int, count: int) -> np.ndarray:
    """[rows, count] float64 in [0, 1): in each row one number from each of `count` equal parts.

    What is found by them is drawn as often as by uniform numbers, with less variance.
    """
    drawn = (np.arange(count) + rng.random_sample((rows, count))) / count
    return np.minimum(drawn, np.nextafter(1, 0))  # the last number may be rounded to 1


class Drawing:
    """Words by a power of their counts, from uniform numbers.

    A word is found by a table of equal parts of [0, 1), most of which belong to one word; in the
    others, by bisection.
    """

    def __init__(self, counts: np.ndarray, power: float) -> None:
        counts = np.asarray(counts, np.float64)
        weights = np.where(counts > 0, np.maximum(counts, 1) ** power, 0)
        assert weights.sum() > 0, "no word has a count"
        self.probabilities = weights / weights.sum()
        self._ends = np.cumsum(self.probabilities)
        self._ends /= self._ends[-1]
        self._parts = min(1 << (PARTS * len(counts)).bit_length(), MOST_PARTS)  # exact in floats
        borders = np.arange(self._parts + 1) / self._parts
        word = self._ends.searchsorted(borders[:-1], "right").astype(np.int32)
        self._word_of = np.where(self._ends[word] >= borders[1:], word, -1)

    def __call__(self, uniform: np.ndarray) -> np.ndarray:
        """int32 words, for numbers in [0, 1) of any shape."""
        found = self._word_of[(uniform * self._parts).astype(np.int64)]
        several = found < 0
        found[several] = self._ends.searchsorted(uniform[several], "right")
        return found
