"""Training or validation, by a hash of the document: the same on every machine, in any order of
reading.

Each document has a 64-bit hash of its name or of its text. With the salt mixed in, the hash is a
number uniform in [0, 2**64), and a document is held out when it lies below fraction * 2**64. Equal
texts have equal hashes and so never stand on both sides.
"""

from __future__ import annotations

import hashlib

import numpy as np

from jaxlm.config import UserError


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


def held_out(hashes: np.ndarray, fraction: float, salt: int, by: str) -> np.ndarray:
    """Boolean mask of the validation documents; [n] uint64 hashes, fraction in [0, 1).

    With fraction > 0 both sides get at least one document. Raises UserError where that cannot be.
    """
    if fraction == 0:
        return np.zeros(len(hashes), bool)
    values = scores(hashes, salt)
    low, high = values.min(), values.max()
    if low == high:
        what = (
            "one document"
            if len(hashes) == 1
            else f"{len(hashes)} documents of one and the same {by}"
        )
        raise UserError(
            f"validation_fraction: {what} cannot be split into training and validation; "
            "set validation_fraction: 0, or name a validation source of its own"
        )
    threshold = np.uint64(int(fraction * 2**64))
    return values < np.clip(threshold, low + np.uint64(1), high)
