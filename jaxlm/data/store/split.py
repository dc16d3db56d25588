"""Training or validation, by a hash of the document: the same on every machine, in any order of
reading.

Each document has a 64-bit hash of its name or of its text. With the salt mixed in, the hash is a
number uniform in [0, 2**64), and a document is held out when it is below fraction * 2**64. Equal
texts have equal hashes and so are never on both sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxlm.core.config import UserError
from jaxlm.data.sources.base import Document, Source
from jaxlm.data.store.tokens import Documents, TokenStore


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


def hash64(data: bytes) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def scores(hashes: np.ndarray, salt: int) -> np.ndarray:
    """uint64 numbers, uniform and different for each salt: the splitmix64 finaliser over hash and
    salt.
    """
    x = hashes.astype(np.uint64) ^ np.uint64(hash64(str(salt).encode()))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def held_out(
    hashes: np.ndarray, fraction: float, salt: int, by: str, of: str = "document"
) -> np.ndarray:
    """Boolean mask of the validation documents; [n] uint64 hashes, fraction in [0, 1). `by` and
    `of` say in the error what the hashes are, and of what.

    With fraction > 0 both sides get at least one document. Raises UserError where that cannot be.
    """
    if fraction == 0:
        return np.zeros(len(hashes), bool)
    values = scores(hashes, salt)
    low, high = values.min(), values.max()
    if low == high:
        what = (
            f"one {of}"
            if len(hashes) == 1
            else f"{len(hashes)} {of}s, all with the same {by}, stay together, so they"
        )
        raise UserError(
            f"validation_fraction: {what} cannot be split into training and validation; "
            "set validation_fraction: 0, or name a validation source of its own"
        )
    threshold = np.uint64(int(fraction * 2**64))
    return values < np.clip(threshold, low + np.uint64(1), high)
