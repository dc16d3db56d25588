"""Synonyms are inserted at random places (Wei and Zou 2019, arXiv:1901.11196, section 2: EDA's RI).

    augment: [{type: random_insertion, rate: 0.1}]
    augment: [{type: random_insertion, words: {type: cilin}}]

To w words, rate * w are added, rounded up as often as makes the mean exact, where any of them has a
synonym: each is one of a word that is drawn, after any word, but not within an answer or an entity.
In tagging, it has the tag of that word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxlm.core.config import field
from jaxlm.data.augment.base import WordAugment, draws
from jaxlm.data.augment.base_replacement import Replacement
from jaxlm.data.augment.synonyms import Synonyms
from jaxlm.data.reading.words import placed_after

if TYPE_CHECKING:
    import numpy as np

    from jaxlm.core.types import Tokenizer
    from jaxlm.data.reading.words import Unit


@dataclass(frozen=True, kw_only=True)
class RandomInsertion(WordAugment):
    """Insert synonyms of words (EDA's random insertion)."""

    rate: float = field(0.1, "words that are inserted, as a share of the words", ge=0, le=1)
    words: Replacement = field(Synonyms, "the augmentation whose alternatives are inserted")

    def prepare(self, tokenizer: Tokenizer) -> None:
        self.words.prepare(tokenizer)

    def contents(self) -> Iterator[tuple[str, str]]:
        return self.words.contents()

    def change(self, units: list[Unit], rng: np.random.RandomState) -> list[Unit]:
        words = self.words.words(units)
        known = [word for word in words if word.others]
        count = draws(self.rate, len(words), rng) if known else 0
        out = list(units)
        for _ in range(count):
            word = known[rng.randint(len(known))]
            new = word.others[rng.randint(len(word.others))]
            places = [i for i, unit in enumerate(out) if unit.open]
            at = places[rng.randint(len(places))]
            out[at : at + 1] = placed_after(out[at], new, units[word.first].origin)
        return out
