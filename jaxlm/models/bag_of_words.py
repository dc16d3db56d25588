"""A bag of words: a text as its tokens and n-grams, without their order.

    tokenizer: {type: words}
    model: {type: bag_of_words, ngrams: 2}
    objective: {type: naive_bayes}

The tokens are words or characters, as the tokenizer says. The output is a `jaxlm.nn.bags.Bag`,
which a head scores (`multinomial`, `logistic`, `nbsvm`, `averaged`, ...). With tf(f) occurrences
of a feature f in a text, df(f) of n training texts that have f,

    weight(f) = tf(f)                      or 1                    with binary
                                           or 1 + log tf(f)        with sublinear
    weight(f) *= log((1 + n) / (1 + df(f))) + 1                    with idf
    weight     /= |weight|                                         with norm

as scikit-learn's `TfidfVectorizer` has them. df and n are counted in the first pass over the
training records and are a part of the checkpoint; a feature that no training text has is left out.

    model: {type: bag_of_words, sublinear: true, idf: true, norm: l2}
    objective: {type: counted_first, head: {type: logistic}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import UserError, field
from jaxlm.core.types import Encoded, ModelConfig, Output
from jaxlm.nn.bags import Bag, Norm, features, num_features

if TYPE_CHECKING:
    from jaxlm.core.rows import RowSpec
    from jaxlm.core.types import Tokenizer

TYPES = "token_types"


@dataclass(frozen=True, kw_only=True)
class BagOfWordsConfig(ModelConfig, type="bag_of_words"):
    """Tokens and n-grams of a text, in no order."""

    dtype: ClassVar[str] = "float32"  # type: ignore[misc]

    ngrams: int = field(1, "tokens of the longest n-gram", ge=1, le=8)
    binary: bool = field(False, "whether a feature is in the text, instead of how often")
    sublinear: bool = field(False, "1 + log(n) instead of n occurrences")
    idf: bool = field(
        False, "multiply a weight by log((1 + texts) / (1 + texts that have the feature)) + 1"
    )
    norm: Norm | None = field(None, "divide the weights of a text by this norm of them")
    buckets: int = field(
        2**20, "features that n-grams of two or more tokens share by a hash", ge=1, lt=2**30
    )
    hashing: bool = field(False, "single tokens share the buckets as well")
    signed: bool | None = field(
        None, "ids of the second half of the vocabulary count -1; null: as the tokenizer says"
    )
    pairs: bool | None = field(
        None, "the second text of a pair has features of its own; null: where the task has pairs"
    )
    vocab_size: int | None = field(None, "tokens; null: the tokenizer's", ge=1)

    def validate(self) -> None:
        if self.binary and self.sublinear:
            raise UserError(
                "sublinear: with binary each feature occurs once; set one of the two to false"
            )
        if self.signed and self.hashing:
            raise UserError(
                "hashing: ids with signs are those of a tokenizer that hashes; set it to false"
            )

    @property
    def gives_bags(self) -> bool:
        return True

    @property
    def passes(self) -> int:
        return int(self.idf)

    @property
    def row_keys(self) -> frozenset[str]:
        return frozenset([TYPES] if self.pairs else [])

    @property
    def num_token_types(self) -> int:
        return 2

    @property
    def output_size(self) -> int:
        """The number of features; `vocab_size` must be set."""
        return self.side_size * (2 if self.pairs else 1)

    @property
    def side_size(self) -> int:
        """The number of features of one text."""
        assert self.vocab_size is not None, "resolve"
        signed = bool(self.signed)
        return num_features(self.vocab_size, self.ngrams, self.buckets, self.hashing, signed)

    def for_data(self, rows: RowSpec, tokenizer: Tokenizer) -> BagOfWordsConfig:
        signed = getattr(tokenizer, "signed", False) if self.signed is None else self.signed
        return self.replace(
            signed=signed,
            pairs=TYPES in rows if self.pairs is None else self.pairs,
        )

    def build(self, vocab_size: int, *, rngs: nnx.Rngs) -> BagOfWords:
        if self.vocab_size is not None and self.vocab_size < vocab_size:
            raise UserError(
                f"vocab_size: {self.vocab_size} is less than the tokenizer's {vocab_size}; set it "
                f"to {vocab_size} or more, or leave it out"
            )
        return BagOfWords(self.replace(vocab_size=self.vocab_size or vocab_size))


class BagOfWords(nnx.Module):
    """The features of each row, and with `idf` the number of training texts that have each."""

    def __init__(self, config: BagOfWordsConfig) -> None:
        self.config, self.vocab_size = config, config.vocab_size
        if config.idf:
            self.frequencies = nnx.Param(jnp.zeros(config.output_size), axes=("buckets",))
            self.texts = nnx.Param(jnp.zeros(1), axes=("pos",))

    def __call__(
        self,
        tokens: jax.Array,  # [B, T]
        *,
        positions: jax.Array,  # [B, T], not needed
        segment_ids: jax.Array,  # [B, T]
        cache: Any = None,
        encoded: Encoded | None = None,
        key: jax.Array | None = None,
        token_types: jax.Array | None = None,  # [B, T]: 1 in the second text of a pair
    ) -> Output:
        """A `Bag` in the place of hidden states."""
        bag = self._weighted(self._bag(tokens, segment_ids, token_types))
        return Output(bag, cache)  # type: ignore[arg-type]

    def add(self, tables: dict[str, Any], batch: Any, counts: jax.Array) -> dict[str, Any]:
        """The tables with the texts of a batch added that `counts` [B] has 1 for."""
        types = batch[TYPES] if self.config.pairs else None
        bag = self._bag(batch["tokens"], batch["segment_ids"], types).binary()
        each = bag.weights * counts[:, None]
        return {
            **tables,
            "frequencies": tables["frequencies"].at[bag.ids].add(each),
            "texts": tables["texts"] + counts.sum(),
        }

    def _bag(self, tokens: jax.Array, segment_ids: jax.Array, token_types: jax.Array | None) -> Bag:
        """The occurrences of features."""
        config, segments = self.config, segment_ids
        assert config.vocab_size is not None
        if token_types is not None:  # no n-gram is in both texts
            segments = jnp.where(segment_ids > 0, 2 * segment_ids + token_types, 0)
        bag = features(
            tokens,
            segments,
            vocab_size=config.vocab_size,
            ngrams=config.ngrams,
            buckets=config.buckets,
            hashing=config.hashing,
            signed=bool(config.signed),
        )
        if token_types is None:
            return bag
        length = tokens.shape[1]
        firsts = [token_types[:, : length - n] for n in range(min(config.ngrams, length))]
        second = (jnp.concatenate(firsts, axis=1) > 0) & (bag.weights != 0)
        return bag._replace(ids=bag.ids + jnp.where(second, config.side_size, 0))

    def _weighted(self, bag: Bag) -> Bag:
        """The weights that the head reads."""
        config = self.config
        if config.binary:
            bag = bag.binary()
        elif config.sublinear or config.norm:
            bag = bag.joined()
        if config.sublinear:
            bag = bag.sublinear()
        if config.idf:
            frequencies = self.frequencies[...][bag.ids]
            idf = jnp.log((1 + self.texts[...]) / (1 + frequencies)) + 1
            bag = bag._replace(weights=jnp.where(frequencies > 0, bag.weights * idf, 0.0))
        return bag if config.norm is None else bag.normalised(config.norm)

    def feature_names(self, tokenizer: Tokenizer) -> dict[int, str]:
        """{feature: name} of the features that are single tokens with a spelling."""
        config, name_of = self.config, getattr(tokenizer, "name_of", None)
        if config.hashing:
            return {}
        if name_of is None:
            spelt = [each.decode("utf-8", "replace") for each in tokenizer.token_bytes]
        else:
            spelt = [name_of(i) for i in range(tokenizer.vocab_size)]
        first = {i: name for i, name in enumerate(spelt) if name.strip()}
        if not config.pairs:
            return first
        second = {config.side_size + i: f"{name} (text 2)" for i, name in first.items()}
        return {**first, **second}

    def init_cache(self, batch_size: int, max_len: int, encoded: Encoded | None = None) -> None:
        """None: a bag has no state."""
        return None

    def flops_per_token(self, seq_len: int, *, is_causal: bool = True) -> float:
        """0: there are no matmuls."""
        return 0.0
