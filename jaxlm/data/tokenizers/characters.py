"""One id a character of the corpus, and by default 256 more that spell all others in bytes.

tokenizer = Characters().build(texts, corpus_fingerprint, cache_dir)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxlm.core.config import UserError, field
from jaxlm.core.types import Tokenizer, TokenizerConfig
from jaxlm.data.tokenizers.base import BaseTokenizer, Texts, trained


@dataclass(frozen=True, kw_only=True)
class Characters(TokenizerConfig):
    """The characters of the corpus, in the order of their code points."""

    byte_fallback: bool = field(
        True, "256 more ids spell characters that the corpus lacks; without them those are an error"
    )

    def build(self, texts: Texts, corpus_fingerprint: str, cache_dir: Path) -> Tokenizer:
        def train() -> Tokenizer:
            characters: set[str] = set()
            for text in texts():
                characters.update(text)
            return CharacterTokenizer("".join(sorted(characters)), self.byte_fallback)

        return trained(self, corpus_fingerprint, cache_dir, train)


class CharacterTokenizer(BaseTokenizer):
    """pad, bos, eos, then the characters, then (with byte fallback) the 256 bytes."""

    kind = "characters"
    pad_id: int = 0
    bos_id: int | None = 1
    eos_id: int | None = 2

    def __init__(self, characters: str, byte_fallback: bool) -> None:
        assert list(characters) == sorted(set(characters))
        self.characters, self.byte_fallback = characters, byte_fallback
        self.token_bytes = [b"", b"", b"", *(c.encode() for c in characters)]
        self._ids = {c: i for i, c in enumerate(characters, start=3)}
        self._first_byte = len(self.token_bytes)
        if byte_fallback:
            self.token_bytes += [bytes([b]) for b in range(256)]
        self.vocab_size = len(self.token_bytes)

    def encode(self, text: str) -> list[int]:
        """Raises `UserError` for a character that the corpus lacks, without byte fallback."""
        ids = [self._ids.get(c) for c in text]
        if None not in ids:
            return ids  # type: ignore[return-value]
        out: list[int] = []
        for c, i in zip(text, ids, strict=True):
            if i is not None:
                out.append(i)
            elif self.byte_fallback:
                out += [self._first_byte + b for b in c.encode()]
            else:
                raise UserError(
                    f"character {c!r} (U+{ord(c):04X}) is not in the tokenizer's "
                    f"{len(self.characters)} characters; set byte_fallback: true, or leave it out"
                )
        return out

    def files(self) -> dict[str, bytes]:
        values = {"characters": self.characters, "byte_fallback": self.byte_fallback}
        return {"characters.json": json.dumps(values).encode()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Tokenizer:
        return cls(**json.loads(files["characters.json"]))
