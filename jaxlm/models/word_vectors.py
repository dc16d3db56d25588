"""Word vectors: a table of inputs and a table of outputs, which `skip_gram` and `cbow` train.

    tokenizer: {type: words, min_count: 5}
    model: {type: word_vectors, hidden_size: 100}
    objective: {type: skip_gram}

The input table has a row for each word, and with `subwords` a row for each bucket of the hashed
character n-grams after them: then a word's vector is the mean of its own row and those of its
n-grams (fastText). Inputs start uniform in +-1 / D and outputs at 0, as in fastText and gensim. A
step reads and writes the rows of its words alone, so both tables are whole on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm.core.config import Config, UserError, field
from jaxlm.core.types import ModelConfig, Tokenizer
from jaxlm.vectors.subwords import subword_table, subwords


@dataclass(frozen=True, kw_only=True)
class Subwords(Config):
    """The character n-grams of words that have vectors as well."""

    shortest: int = field(3, "characters of the shortest n-gram", ge=1)
    longest: int = field(6, "characters of the longest n-gram", ge=1)
    buckets: int = field(2_000_000, "vectors that the n-grams share by a hash", ge=1, lt=2**31)

    def validate(self) -> None:
        if self.longest < self.shortest:
            raise UserError(
                f"longest: {self.longest} is less than shortest {self.shortest}; set it to "
                f"{self.shortest} or more"
            )

    def table(self, tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
        """([V, G] buckets, [V] how many a word has), of the words of a tokenizer."""
        words = [spelt.decode("utf-8", "replace").strip() for spelt in tokenizer.token_bytes]
        return subword_table(words, self.shortest, self.longest, self.buckets)


@dataclass(frozen=True, kw_only=True)
class WordVectorsConfig(ModelConfig, type="word_vectors"):
    """A vector for each word."""

    dtype: ClassVar[str] = "float32"  # type: ignore[misc]

    hidden_size: int = field(100, "dimensions of a vector (D)", ge=1)
    subwords: Subwords | None = field(None, "vectors of character n-grams; null: of words alone")
    vocab_size: int | None = field(None, "words; null: the tokenizer's", ge=1)

    @property
    def descends(self) -> bool:
        return False

    @property
    def output_size(self) -> int:
        return self.hidden_size

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> WordVectorsModel:
        return WordVectorsModel(self, self.vocab_size or vocab_size, rngs=rngs)

    def word_vectors(self, params: Mapping[str, Any], tokenizer: Tokenizer) -> np.ndarray:
        rows = np.asarray(jax.device_get(params["input"]), np.float32)
        size = tokenizer.vocab_size
        if self.subwords is None:
            return rows[:size]
        assert self.vocab_size is not None, "resolve"
        buckets, lengths = self.subwords.table(tokenizer)
        vectors = rows[:size].copy()
        for word, n in enumerate(lengths):
            vectors[word] += rows[self.vocab_size + buckets[word, :n]].sum(0)
        return vectors / (1 + lengths[:, None])

    def spelled_vector(
        self, params: Mapping[str, Any], tokenizer: Tokenizer
    ) -> Callable[[str], np.ndarray | None] | None:
        """The mean of the vectors of a word's n-grams, as in fastText. Where the tokenizer writes
        texts in lower case, a word has the vector of its spelling in lower case.
        """
        if self.subwords is None:
            return None
        assert self.vocab_size is not None, "resolve"
        first, grams, lower = self.vocab_size, self.subwords, getattr(tokenizer, "lowercase", False)
        rows = np.asarray(jax.device_get(params["input"]), np.float32)

        def spelled(word: str) -> np.ndarray | None:
            own = word.lower() if lower else word
            found = subwords(own, grams.shortest, grams.longest, grams.buckets) if own else []
            known = tokenizer.id_of(own)
            used = [first + bucket for bucket in found] + ([] if known is None else [known])
            return rows[used].mean(0) if used else None

        return spelled


class WordVectorsModel(nnx.Module):
    """The two tables."""

    def __init__(self, config: WordVectorsConfig, vocab_size: int, *, rngs: nnx.Rngs) -> None:
        self.config, self.vocab_size = config, vocab_size
        buckets = 0 if config.subwords is None else config.subwords.buckets
        shape, half = (vocab_size + buckets, config.hidden_size), 1 / config.hidden_size
        start = jax.random.uniform(rngs.params(), shape, jnp.float32, -half, half)
        self.input = _table(start)
        self.output = _table(jnp.zeros((vocab_size, config.hidden_size), jnp.float32))

    def init_cache(self, batch_size: int, max_len: int, encoded: Any = None) -> None:
        """None: there is no state."""
        return None


def _table(values: jax.Array) -> nnx.Param:
    return nnx.Param(values, axes=("pos", "pos"))
