"""The character n-grams of a word as fastText has them (Bojanowski et al. 2017, arXiv:1607.04606).

    subwords("where", 3, 6, buckets=2_000_000)     # buckets of "<wh", "<whe", ..., "re>"

A word is written with a bracket on each side, and each of its n-grams has a bucket: the 32-bit
FNV-1a hash of its UTF-8 bytes, modulo the number of buckets. fastText extends the sign of a byte
before it is mixed in, so bytes from 128 on set the upper bits as well; this is done here too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OFFSET, PRIME, MASK = 2166136261, 16777619, 0xFFFFFFFF


def subwords(word: str, shortest: int, longest: int, buckets: int) -> list[int]:
    """The buckets of a word's n-grams of `shortest` to `longest` characters, by their beginning."""
    characters = [
        [byte | 0xFFFFFF00 if byte > 127 else byte for byte in character.encode()]
        for character in f"<{word}>"
    ]
    found = []
    for begin in range(len(characters)):
        value = OFFSET
        for size, encoded in enumerate(characters[begin : begin + longest], start=1):
            for byte in encoded:
                value = (value ^ byte) * PRIME & MASK
            bracket = size == 1 and begin in (0, len(characters) - 1)
            if size >= shortest and not bracket:
                found.append(value % buckets)
    return found


def subword_table(
    words: Sequence[str], shortest: int, longest: int, buckets: int
) -> tuple[np.ndarray, np.ndarray]:
    """([V, G] int32 buckets padded with 0, [V] int32 how many a word has); "" has none."""
    found = [subwords(word, shortest, longest, buckets) if word else [] for word in words]
    lengths = np.array([len(each) for each in found], np.int32)
    table = np.zeros((len(words), max(int(lengths.max(initial=0)), 1)), np.int32)
    for row, each in zip(table, found, strict=True):
        row[: len(each)] = each
    return table, lengths
