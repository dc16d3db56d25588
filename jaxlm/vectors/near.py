"""Known words near a word that has no vector: for the line that says so.

    near_words("quenn", table.words)         # ["queen", "quen", "quinn"]

The words with most pairs of letters in common are compared by the number of letters that differ
(Levenshtein 1966). Of equally near words the first is the better guess: it is the most frequent.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

COMPARED = 200
LONGEST = 80  # letters: longer words are not compared


def near_words(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """At most so many of the known words, the nearest first; letter case does not count.

    A third of the letters may differ, and one of three to five letters.
    """
    lower = word.lower()[:LONGEST]
    pairs = _pairs(lower)

    def shared(placed: tuple[int, str]) -> int:
        return len(pairs & _pairs(placed[1].lower()))

    near = ((i, w) for i, w in enumerate(known) if abs(len(w) - len(lower)) <= 3)
    best = heapq.nlargest(COMPARED, near, key=shared)
    distances = {each: edits(lower, each.lower()) for _, each in sorted(best)}
    found = [each for each in distances if distances[each] <= max(len(lower) > 2, len(lower) // 3)]
    return sorted(found, key=distances.__getitem__)[:most]  # stable: the first in order


def edits(a: str, b: str) -> int:
    """Letters that are to be inserted, left out or replaced to make b of a."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def _pairs(word: str) -> set[str]:
    """The pairs of neighbouring letters, with the word's ends."""
    ends = f"^{word}$"
    return {ends[i : i + 2] for i in range(len(ends) - 1)}
