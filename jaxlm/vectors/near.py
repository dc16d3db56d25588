"""Known words near a word that has no vector: for the line that says so.

    near_words("quene", table.words)         # ["queen", "queue"]

The words with most pairs of letters in common are compared letter by letter.
"""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

COMPARED = 200
LONGEST = 80  # letters: longer words are not compared


def near_words(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """At most so many of the known words, the nearest first; letter case does not count."""
    lower = word.lower()[:LONGEST]
    pairs = _pairs(lower)

    def shared(other: str) -> int:
        return len(pairs & _pairs(other.lower()))

    near = (w for w in known if abs(len(w) - len(lower)) <= 3 and len(w) <= LONGEST)
    best = heapq.nlargest(COMPARED, near, key=shared)
    spelled: dict[str, str] = {}
    for each in best:
        spelled.setdefault(each.lower(), each)
    found = difflib.get_close_matches(lower, spelled, n=most, cutoff=0.6)
    return [spelled[each] for each in found]


def _pairs(word: str) -> set[str]:
    """The pairs of neighbouring letters, with the word's ends."""
    ends = f"^{word}$"
    return {ends[i : i + 2] for i in range(len(ends) - 1)}
