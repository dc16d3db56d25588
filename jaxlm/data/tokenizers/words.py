"""One id a word, and with `ngrams` one id a short run of words, for models that count them.

    tokenizer: {type: words, ngrams: 2}

    "not very good"        not, very, "not very", good, "very good"

The words are those of `jaxlm.core.words`; with `unit: character` they are the characters. A word
that the corpus lacks is `unk`, and a longer n-gram that it lacks is left out. Decoding joins words
by spaces, so that a text does not come back as it was; longer n-grams add nothing to it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxlm.core.config import UserError, field
from jaxlm.core.types import Tokenizer, TokenizerConfig
from jaxlm.core.words import words_of
from jaxlm.data.tokenizers.base import BaseTokenizer, Texts, trained

Unit = Literal["word", "character"]


@dataclass(frozen=True, kw_only=True)
class Words(TokenizerConfig):
    """The words of the corpus, or its n-grams, the most frequent first."""

    unit: Unit = field("word", "what an n-gram consists of")
    ngrams: int = field(1, "units of the longest n-gram that has an id", ge=1, le=8)
    lowercase: bool = field(True, "write all texts in lower case")
    min_count: int = field(1, "how often the corpus has each n-gram at least", ge=1)
    max_size: int | None = field(None, "keep the most frequent n-grams; null: all", ge=1)

    def build(self, texts: Texts, corpus_fingerprint: str, cache_dir: Path) -> Tokenizer:
        def train() -> Tokenizer:
            empty = WordTokenizer([], unit=self.unit, ngrams=self.ngrams, lowercase=self.lowercase)
            found: Counter[str] = Counter()
            for text in texts():
                found.update(empty.split(text))
            often = [(gram, count) for gram, count in found.items() if count >= self.min_count]
            if not often:
                most = max(found.values(), default=0)
                raise UserError(
                    f"tokenizer.min_count: {self.min_count}, and no {self.unit} of the training "
                    f"texts comes so often; lower it to at most {most}"
                    if most
                    else f"tokenizer: the training texts have no {self.unit}; name files with text"
                )
            often.sort(key=lambda pair: (-pair[1], pair[0]))
            return empty.with_ngrams(dict(often[: self.max_size]))

        # An older cache may have one without counts, or with other borders of words.
        return trained(self, f"{corpus_fingerprint} with counts, 2", cache_dir, train)


class WordTokenizer(BaseTokenizer):
    """pad, unk, then the n-grams; it has neither bos nor eos."""

    pad_id: int = 0
    unk_id: int | None = 1
    lossless: bool = False
    small_corpus: int | None = 4 * 2**20

    def __init__(
        self,
        names: Sequence[str],
        *,
        unit: Unit = "word",
        ngrams: int = 1,
        lowercase: bool = True,
        counts: Sequence[int] | None = None,
    ) -> None:
        """names: the n-grams; the words of one are joined by spaces. counts: how often the corpus
        has each id, 0 for pad and unk; None: it is not known.
        """
        self.names, self.unit, self.ngrams, self.lowercase = list(names), unit, ngrams, lowercase
        self.counts = None if counts is None else list(counts)
        self._ids = {name: i for i, name in enumerate(names, start=2)}
        between = b" " if unit == "word" else b""
        alone = ((len(name) if unit == "character" else name.count(" ") + 1) == 1 for name in names)
        spelled = (
            between + name.encode() if one else b"" for name, one in zip(names, alone, strict=True)
        )
        self.token_bytes = [b"", b"", *spelled]
        self.vocab_size = len(self.token_bytes)

    def with_ngrams(self, counts: Mapping[str, int]) -> WordTokenizer:
        """The tokenizer with these n-grams, which the corpus has so often."""
        return WordTokenizer(
            list(counts),
            unit=self.unit,
            ngrams=self.ngrams,
            lowercase=self.lowercase,
            counts=[0, 0, *counts.values()],
        )

    def split(self, text: str) -> Iterator[str]:
        """The n-grams of a text, by the unit that they end with."""
        return grams_of(text, self.unit, self.ngrams, self.lowercase)

    def encode(self, text: str) -> list[int]:
        found = []
        for gram in self.split(text):
            number = self._ids.get(gram)
            if number is not None:
                found.append(number)
            elif len(gram) == 1 or (self.unit == "word" and " " not in gram):
                found.append(1)
        return found

    def name_of(self, i: int) -> str:
        """The n-gram of an id; "" for pad and unk."""
        return self.names[i - 2] if i > 1 else ""

    def id_of(self, token: str) -> int | None:
        return self._ids.get(token)

    def files(self) -> dict[str, bytes]:
        values: dict[str, Any] = {"names": self.names, "unit": self.unit, "ngrams": self.ngrams}
        values["lowercase"] = self.lowercase
        if self.counts is not None:  # those of earlier versions have none, and keep their hash
            values["counts"] = self.counts
        return {"words.json": json.dumps(values, ensure_ascii=False).encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        return cls(**json.loads(files["words.json"]))


def grams_of(text: str, unit: Unit, ngrams: int, lowercase: bool) -> Iterator[str]:
    """The n-grams of a text of up to `ngrams` units, by the unit that they end with."""
    if unit == "word":
        units, between = words_of(text, lowercase=lowercase), " "
    else:
        units, between = list(text.lower() if lowercase else text), ""
    for end in range(1, len(units) + 1):
        for begin in range(end - 1, max(end - 1 - ngrams, -1), -1):
            yield between.join(units[begin:end])
