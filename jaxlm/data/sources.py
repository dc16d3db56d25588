"""Where documents come from (signatures first; readers follow)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jaxlm.config import UserError
from jaxlm.types import SourceConfig


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a stable name ("hamlet.txt", "reviews.jsonl:12") and, for labelled data, its class."""

    text: str
    name: str
    label: str | None = None


@dataclass(frozen=True)
class Unit:
    """A piece of a source that can be read alone, in any process (picklable): a file, a row group."""

    name: str
    origin: Any
    source: Source

    def documents(self, counts: Counter[str] | None = None) -> Iterator[Document]:
        """Its documents in order; `counts` is told what was left out ("blank", "unlabelled", ...)."""
        yield from self.source.read(self, Counter() if counts is None else counts)


@dataclass(frozen=True, kw_only=True)
class Source(SourceConfig):
    """What every source offers."""

    def units(self) -> list[Unit]:
        raise NotImplementedError

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        raise NotImplementedError

    def fingerprint(self) -> str:
        """SHA-256 over the options and the names and contents of all that is read."""
        raise NotImplementedError

    def documents(self, counts: Counter[str] | None = None) -> Iterator[Document]:
        """All documents, unit by unit; raises `UserError` where there is none."""
        raise NotImplementedError


def empty_corpus(source: Source, counts: Counter[str]) -> UserError:
    """The error for a source whose units gave no document (for those who read units themselves)."""
    raise NotImplementedError
