"""Documents of several sources, and which of them are for training, before any token exists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxlm.data.sources import Document, Source
from jaxlm.data.split import hash64, held_out
from jaxlm.data.store import Documents, TokenStore


@dataclass(frozen=True)
class Corpus:
    """Sources by name, and the rule that holds documents out of them.

    by: "name" or "text", what is hashed. fraction: share that is held out, in [0, 1).
    """

    sources: dict[str, Source]
    fraction: float
    by: str
    salt: int

    def fingerprint(self) -> str:
        """SHA-256 over what decides the training texts."""
        facts = {
            "sources": {name: source.fingerprint() for name, source in self.sources.items()},
            "split": [self.fraction, self.by, self.salt] if self.fraction else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def training_texts(self) -> Iterator[str]:
        """The texts that are not held out, in order. Reads the sources twice where some are."""
        if self.fraction == 0:
            yield from (document.text for _, document in named_documents(self.sources))
            return
        hashes = np.fromiter(
            (
                hash64(
                    name.encode("utf-8", "surrogateescape")
                    if self.by == "name"
                    else d.text.encode()
                )
                for name, d in named_documents(self.sources)
            ),
            np.uint64,
        )
        mask = held_out(hashes, self.fraction, self.salt, self.by)
        for (_, document), out in zip(named_documents(self.sources), mask, strict=True):
            if not out:
                yield document.text

    def split(self, store: TokenStore) -> dict[str, Documents]:
        """The store's documents as {"train": ..., "validation": ...}; only "train" if nothing is
        held out.
        """
        documents = store.documents()
        if self.fraction == 0:
            return {"train": documents}
        hashes = np.array(store.arrays[f"{self.by}_hashes"])
        out = held_out(hashes, self.fraction, self.salt, self.by)
        return {"train": documents.select(~out), "validation": documents.select(out)}


def named_documents(sources: dict[str, Source]) -> Iterator[tuple[str, Document]]:
    """(name, document) of all sources; "source/name" where there are several."""
    for key, source in sources.items():
        for document in source.documents():
            yield full_name(key if len(sources) > 1 else "", document), document


def full_name(prefix: str, document: Document) -> str:
    return f"{prefix}/{document.name}" if prefix else document.name
