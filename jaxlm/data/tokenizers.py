"""Text to token ids and back (signatures first; see TokenizerConfig and Tokenizer in jaxlm.types)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxlm.types import Tokenizer, TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class Bytes(TokenizerConfig):
    """The 256 bytes of UTF-8."""

    def build(
        self, texts: Callable[[], Iterator[str]], corpus_fingerprint: str, cache_dir: Path
    ) -> Tokenizer:
        raise NotImplementedError


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer that `save` wrote to `folder`."""
    raise NotImplementedError
