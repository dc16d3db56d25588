"""Words and their vectors: neighbours, analogies and similarities by the cosine (numpy alone).

    vectors = jaxlm.load("runs/word2vec").vectors
    vectors.nearest("king", 5)                        # [("prince", 0.71), ...]
    vectors.analogy("man", "king", "woman", 1)        # king - man + woman: [("queen", 0.69)]
    vectors.similarity("sun", "moon")                 # 0.54

A model with n-grams of words (fastText) also has a vector for a word that the table lacks, by the
word's spelling.

An analogy is scored as 3CosAdd (Levy and Goldberg 2014): the cosine of each word's vector to the
sum of the unit vectors b - a + c, where the three words themselves are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.core.types import Tokenizer
from jaxlm.vectors.near import near_words

Scored = list[tuple[str, float]]  # words with their cosine, the highest first


@dataclass(frozen=True, eq=False)
class WordVectors:
    """A table of vectors, one for each word."""

    words: Sequence[str]  # without duplicates, by the order of the rows
    vectors: np.ndarray  # [V, D] float32
    counts: np.ndarray | None = None  # [V] how often the training text has each word
    # The vector of a word that the table lacks; None: such words have none.
    by_spelling: Callable[[str], np.ndarray | None] | None = None

    def __post_init__(self) -> None:
        assert self.vectors.ndim == 2 and len(self.words) == len(self.vectors), "a row a word"
        assert self.counts is None or len(self.counts) == len(self.words), "a count a word"

    @classmethod
    def of_tokenizer(
        cls,
        tokenizer: Tokenizer,
        rows: np.ndarray,
        by_spelling: Callable[[str], np.ndarray | None] | None = None,
    ) -> WordVectors:
        """The table of a vocabulary, from rows [V, D] that begin with one an id of the tokenizer.

        Special ids have no word; of ids that spell the same word, the first one is taken.
        """
        spelled = [b.decode("utf-8", "replace").strip() for b in tokenizer.token_bytes]
        first = {word: i for i, word in reversed([*enumerate(spelled)]) if word}
        ids = sorted(first.values())
        counts = getattr(tokenizer, "counts", None)
        return cls(
            [spelled[i] for i in ids],
            np.asarray(rows, np.float32)[ids],
            None if counts is None else np.asarray(counts)[ids],
            by_spelling,
        )

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __getitem__(self, word: str) -> np.ndarray:
        """[D] the vector of a word. Raises `UserError` for a word that has none."""
        row = self.index.get(word)
        if row is not None:
            return self.vectors[row]
        found = self.by_spelling(word) if self.by_spelling is not None else None
        if found is None:
            raise self._unknown(word)
        return found

    @property
    def size(self) -> int:
        """Dimensions of a vector."""
        return self.vectors.shape[1]

    @cached_property
    def index(self) -> dict[str, int]:
        """{word: its row}"""
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def unit(self) -> np.ndarray:
        """[V, D] the vectors at length 1; one of zeros is left so."""
        lengths = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        return self.vectors / np.where(lengths > 0, lengths, 1)

    def similarity(self, a: str, b: str) -> float:
        """The cosine of two words' vectors."""
        return float(self._direction(a) @ self._direction(b))

    def nearest(
        self, query: str | np.ndarray, n: int = 10, exclude: Collection[str] = ()
    ) -> Scored:
        """The n words with the highest cosine to a word, which is left out itself, or to a vector
        [D]; never one of `exclude`.
        """
        if isinstance(query, str):
            exclude = {query, *exclude}
            query = self[query]
        cosines = self.unit @ (query / (np.linalg.norm(query) or 1)).astype(np.float32)
        cosines[[self.index[word] for word in exclude if word in self.index]] = -np.inf
        best = np.argsort(-cosines, kind="stable")[:n]
        return [(self.words[i], float(cosines[i])) for i in best if cosines[i] > -np.inf]

    def analogy(self, a: str, b: str, c: str, n: int = 10) -> Scored:
        """The n words that are to c what b is to a."""
        unit_a, unit_b, unit_c = (self._direction(word) for word in (a, b, c))
        return self.nearest(unit_b - unit_a + unit_c, n, exclude=(a, b, c))

    def _direction(self, word: str) -> np.ndarray:
        """[D] the vector of a word at length 1."""
        row = self.index.get(word)
        if row is not None:
            return self.unit[row]
        vector = self[word]
        return vector / (np.linalg.norm(vector) or 1)

    def _unknown(self, word: str) -> UserError:
        near = near_words(word, self.words)
        example = next((w for w in self.words if w.isalpha()), self.words[0])
        fix = (
            f"did you mean {' or '.join(map(shown, near))}?"
            if near
            else f"name one of the {len(self.words):,} words, such as {shown(example)}"
        )
        return UserError(f"{shown(word)} has no vector; {fix}")
