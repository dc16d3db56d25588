"""The most similar one of many texts: cosine similarity of tf-idf over character trigrams.

    texts = SimilarTexts(["Save the file.", "Open a window."])
    texts.nearest("Save all files")            # 0

    tf-idf(g) = count(g) (1 + log((1 + N) / (1 + df(g)))),  of N texts, of which df(g) have g

Trigrams are hashed, and CHARS characters of each text are indexed: an index of 50,000 texts has at
most 0.4 GB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BUCKETS = 2**18
CHARS = 500
FACTORS = np.array([1, 31_337, 31_337**2 % 2**32], np.uint32)


class SimilarTexts:
    """An index of texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._size = number = len(texts)
        found = [_trigrams(text) for text in texts]
        grams = np.concatenate([g for g, _ in found] or [np.zeros(0, np.int32)])
        counts = np.concatenate([c for _, c in found] or [np.zeros(0, np.float32)])
        rows = np.repeat(np.arange(number, dtype=np.int32), [len(g) for g, _ in found])
        frequency = np.bincount(grams, minlength=BUCKETS)
        self._idf = (1 + np.log((1 + number) / (1 + frequency))).astype(np.float32)
        values = counts * self._idf[grams]
        norms = np.sqrt(np.bincount(rows, values**2, minlength=number)).astype(np.float32)
        values /= norms[rows]
        order = np.argsort(grams, kind="stable")
        self._rows, self._values = rows[order], values[order]
        self._begins = np.concatenate([[0], np.cumsum(frequency)])

    def nearest(self, text: str) -> int:
        """The number of the most similar text, the first of equal ones."""
        grams, counts = _trigrams(text)
        weights = counts * self._idf[grams]
        spans = [slice(self._begins[g], self._begins[g + 1]) for g in grams]
        rows = np.concatenate([self._rows[span] for span in spans])
        weighted = [self._values[s] * w for s, w in zip(spans, weights, strict=True)]
        scores = np.bincount(rows, np.concatenate(weighted), minlength=self._size)
        return int(scores.argmax())


def _trigrams(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(buckets, float32 counts) of a text with a space at either end."""
    padded = f" {' '.join(text[:CHARS].lower().split())} "
    codes = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), np.uint32)
    if len(codes) < 3:
        codes = np.append(codes, np.uint32(32)).astype(np.uint32)
    size = len(codes) - 2
    hashed = sum(codes[n : n + size] * factor for n, factor in enumerate(FACTORS))
    mixed = np.asarray(hashed, np.uint32)
    buckets, counts = np.unique((mixed ^ (mixed >> 15)) % BUCKETS, return_counts=True)
    return buckets.astype(np.int32), counts.astype(np.float32)
