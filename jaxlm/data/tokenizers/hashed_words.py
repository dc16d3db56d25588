"""Words and n-grams without a vocabulary: their id is a hash (Weinberger et al. 2009,
arXiv:0902.2206).

    tokenizer: {type: hashed_words, ngrams: 2, buckets: 262144}

    h = MurmurHash3 of the n-gram's UTF-8, as a signed number of 32 bits
    id = 1 + |h| mod buckets          + buckets where h < 0, with `signed`

as in scikit-learn's `HashingVectorizer`: n-grams that share a bucket cancel as often as they add
up, where a bag counts the second half of the ids as -1. Nothing is trained or kept, so a corpus of
any size has the same ids; an id has no name, and decoding gives no text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jaxlm.core.config import field
from jaxlm.core.types import Tokenizer, TokenizerConfig
from jaxlm.data.tokenizers.base import BaseTokenizer, Texts
from jaxlm.data.tokenizers.words import Unit, grams_of

MASK = 0xFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class HashedWords(TokenizerConfig, type="hashed_words"):
    """Words and n-grams by a hash, without a vocabulary."""

    unit: Unit = field("word", "what an n-gram consists of")
    ngrams: int = field(1, "units of the longest n-gram", ge=1, le=8)
    lowercase: bool = field(True, "write all texts in lower case")
    buckets: int = field(2**18, "features that all n-grams share", ge=1, le=2**24)
    signed: bool = field(True, "half of the n-grams count -1, so that those of a bucket cancel")

    def build(self, texts: Texts, corpus_fingerprint: str, cache_dir: Path) -> Tokenizer:
        return HashedWordTokenizer(
            unit=self.unit,
            ngrams=self.ngrams,
            lowercase=self.lowercase,
            buckets=self.buckets,
            signed=self.signed,
        )


class HashedWordTokenizer(BaseTokenizer):
    """pad, then the buckets, with `signed` twice."""

    pad_id: int = 0
    lossless: bool = False
    small_corpus: int | None = 4 * 2**20

    def __init__(
        self, *, unit: Unit, ngrams: int, lowercase: bool, buckets: int, signed: bool
    ) -> None:
        self.unit, self.ngrams, self.lowercase = unit, ngrams, lowercase
        self.buckets, self.signed = buckets, signed
        self.vocab_size = 1 + buckets * (2 if signed else 1)
        self.token_bytes = [b""] * self.vocab_size

    def split(self, text: str) -> Iterator[str]:
        """The n-grams of a text, by the unit that they end with."""
        return grams_of(text, self.unit, self.ngrams, self.lowercase)

    def encode(self, text: str) -> list[int]:
        found = []
        for gram in self.split(text):
            number = murmur3(gram)
            own = 1 + abs(number) % self.buckets
            found.append(own + self.buckets if self.signed and number < 0 else own)
        return found

    def files(self) -> dict[str, bytes]:
        names = ("unit", "ngrams", "lowercase", "buckets", "signed")
        return {"hashed_words.json": json.dumps({n: getattr(self, n) for n in names}).encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        return cls(**json.loads(files["hashed_words.json"]))


@lru_cache(maxsize=2**16)
def murmur3(text: str) -> int:
    """MurmurHash3 (x86, 32 bits, seed 0) of a text's UTF-8, as a signed number (Appleby 2011)."""
    content = text.encode()
    whole = len(content) & ~3
    state = 0
    for place in range(0, whole, 4):
        state ^= _mixed(int.from_bytes(content[place : place + 4], "little"))
        state = (((state << 13) | (state >> 19)) * 5 + 0xE6546B64) & MASK
    if whole < len(content):
        state ^= _mixed(int.from_bytes(content[whole:], "little"))
    state ^= len(content)
    state = ((state ^ (state >> 16)) * 0x85EBCA6B) & MASK
    state = ((state ^ (state >> 13)) * 0xC2B2AE35) & MASK
    state ^= state >> 16
    return state - 2**32 if state >= 2**31 else state


def _mixed(block: int) -> int:
    """A block of up to four bytes, as it is added to the state."""
    block = (block * 0xCC9E2D51) & MASK
    block = ((block << 15) | (block >> 17)) & MASK
    return (block * 0x1B873593) & MASK
