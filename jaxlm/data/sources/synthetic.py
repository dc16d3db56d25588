"""Made-up text, for tests and smoke runs.

Synthetic(num_documents=50)
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import ClassVar

from jaxlm.core.config import field
from jaxlm.data.sources.base import (
    Document,
    Source,
    Unit,
)


@dataclass(frozen=True, kw_only=True)
class Synthetic(Source):
    """Random made-up words in which each word hints at the next, for tests and smoke runs."""

    num_documents: int = field(100, "documents", ge=1)
    words_per_document: int = field(200, "words in each", ge=1)
    num_words: int = field(200, "different words", ge=2)
    seed: int = field(0, "another seed, another language")
    labels: tuple[str, ...] = field(
        (), "classes in turn; a document leans to the words of its class"
    )

    documents_per_unit: ClassVar[int] = 64

    def units(self) -> list[Unit]:
        starts = range(0, self.num_documents, self.documents_per_unit)
        return [Unit(f"synthetic#{start}", start, self) for start in starts]

    def contents(self) -> Iterator[tuple[str, str]]:
        return iter(())  # the options say all

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        stop = min(unit.origin + self.documents_per_unit, self.num_documents)
        for number in range(unit.origin, stop):
            label = self.labels[number % len(self.labels)] if self.labels else None
            yield Document(self._text(number, label), f"synthetic:{number}", label)

    def _text(self, number: int, label: str | None) -> str:
        words, followers = _language(self.num_words, self.seed)
        rng = random.Random(f"{self.seed} document {number}")
        step = len(self.labels) or 1
        first = self.labels.index(label) if label is not None else 0
        weights = list(accumulate(1 / rank for rank in range(1, len(followers[0]) + 1)))
        word, out = 0, []
        for position in range(self.words_per_document):
            if label is not None and rng.random() < 0.3:
                # The words are dealt out to the classes in turn.
                choices = range(first, len(words), step)
                word = choices[int(rng.random() * len(choices))]
            elif rng.random() < 0.1:
                word = int(rng.random() * len(words))
            else:
                word = rng.choices(followers[word], cum_weights=weights)[0]
            out.append(words[word])
            out.append("\n" if position % 12 == 11 else " ")
        return "".join(out).rstrip() + "\n"


@lru_cache(maxsize=4)
def _language(num_words: int, seed: int) -> tuple[list[str], list[list[int]]]:
    """Words of two to four syllables, and for each word six that like to follow it."""
    rng = random.Random(f"{seed} words")
    pick = lambda letters: letters[int(rng.random() * len(letters))]  # noqa: E731
    words: dict[str, None] = {}
    while len(words) < num_words:
        syllables = 1 + int(rng.random() * 3) + (len(words) > 500)
        words["".join(pick("bdfgklmnprstvz") + pick("aeiou") for _ in range(syllables))] = None
    followers = [[int(rng.random() * num_words) for _ in range(6)] for _ in range(num_words)]
    return list(words), followers
