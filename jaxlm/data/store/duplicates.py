"""Equal records: which rows of a store are kept where each text is wanted once.

    numbers = distinct(store, conflicts=False)      # without the rows of records that came before

Two records are equal where all columns that their task stores are. They conflict where the split
goes by the same text and they are not equal: a review that is in the file as positive and as
negative. Of equal records the first is kept, of those that conflict none with `conflicts=False`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from jaxlm.data.store.records import RecordStore


def distinct(store: RecordStore, *, conflicts: bool) -> np.ndarray:
    """The numbers of the rows to keep, in order: [n] int64."""
    names, identities = (np.array(store.arrays[n]) for n in ("name_hashes", "identity_hashes"))
    if not len(names):
        return np.arange(0)
    begins = np.flatnonzero(np.append(True, names[1:] != names[:-1]))  # of records, in rows
    columns = store.records(np.arange(len(names))).columns.values()
    contents: list[bytes] = []
    for begin, end in zip(begins, np.append(begins[1:], len(names)), strict=True):
        digest = hashlib.blake2b(digest_size=16)
        for row in range(begin, end):
            for column in columns:
                digest.update(column.raw(row) + b"\n")  # which JSON values do not hold
        contents.append(digest.digest())
    found: dict[int, set[bytes]] = defaultdict(set)  # the records of a text
    first: dict[bytes, int] = {}
    for number, content in enumerate(contents):
        found[int(identities[begins[number]])].add(content)
        first.setdefault(content, number)
    kept = np.zeros(len(begins), bool)
    kept[[*first.values()]] = True
    if not conflicts:
        kept &= np.array([len(found[int(identities[begin])]) == 1 for begin in begins])
    sizes = np.diff(np.append(begins, len(names)))
    return np.flatnonzero(np.repeat(kept, sizes))
