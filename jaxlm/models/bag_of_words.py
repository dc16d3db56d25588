"""A bag of words: a text as its tokens and n-grams, without their order.

    tokenizer: {type: words}
    model: {type: bag_of_words, ngrams: 2}
    objective: {type: naive_bayes}

The tokens are words or characters, as the tokenizer says. The model has no parameters: its output
is a `jaxlm.nn.bags.Bag`, which a head scores (`multinomial`, `bernoulli`, `logistic`, ...).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from flax import nnx

from jaxlm.core.config import UserError, field
from jaxlm.core.types import Encoded, ModelConfig, Output
from jaxlm.nn.bags import Bag, features, num_features


@dataclass(frozen=True, kw_only=True)
class BagOfWordsConfig(ModelConfig, type="bag_of_words"):
    """Tokens and n-grams of a text, in no order."""

    dtype: ClassVar[str] = "float32"  # type: ignore[misc]

    ngrams: int = field(1, "tokens of the longest n-gram", ge=1, le=8)
    binary: bool = field(False, "whether a feature is in the text, instead of how often")
    buckets: int = field(
        2**20, "features that n-grams of two or more tokens share by a hash", ge=1, lt=2**30
    )
    hashing: bool = field(False, "single tokens share the buckets as well")
    vocab_size: int | None = field(None, "tokens; null: the tokenizer's", ge=1)

    @property
    def gives_bags(self) -> bool:
        return True

    @property
    def output_size(self) -> int:
        """The number of features; `vocab_size` must be set."""
        assert self.vocab_size is not None, "resolve"
        return num_features(self.vocab_size, self.ngrams, self.buckets, self.hashing)

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> BagOfWords:
        if self.vocab_size is not None and self.vocab_size < vocab_size:
            raise UserError(
                f"vocab_size: {self.vocab_size} is less than the tokenizer's {vocab_size}; set it "
                f"to {vocab_size} or more, or leave it out"
            )
        return BagOfWords(self.replace(vocab_size=self.vocab_size or vocab_size))


class BagOfWords(nnx.Module):
    """The features of each row."""

    def __init__(self, config: BagOfWordsConfig) -> None:
        self.config, self.vocab_size = config, config.vocab_size

    def __call__(
        self,
        tokens: jax.Array,  # [B, T]
        *,
        positions: jax.Array,  # [B, T], not needed
        segment_ids: jax.Array,  # [B, T]
        cache: Any = None,
        encoded: Encoded | None = None,
        key: jax.Array | None = None,
    ) -> Output:
        """A `Bag` in the place of hidden states."""
        config = self.config
        assert config.vocab_size is not None
        bag: Bag = features(
            tokens,
            segment_ids,
            vocab_size=config.vocab_size,
            ngrams=config.ngrams,
            buckets=config.buckets,
            hashing=config.hashing,
        )
        return Output(bag.binary() if config.binary else bag, cache)  # type: ignore[arg-type]

    def init_cache(self, batch_size: int, max_len: int, encoded: Encoded | None = None) -> None:
        """None: a bag has no state."""
        return None

    def flops_per_token(self, seq_len: int, *, is_causal: bool = True) -> float:
        """0: there are no matmuls."""
        return 0.0
