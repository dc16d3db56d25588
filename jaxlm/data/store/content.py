"""The content of a split, as one SHA-256: a run compares it when it is resumed.

    split_content(documents, store.manifest["files"]["tokens.bin"]["sha256"], files, labels)
    # {"sha256": "ab12...", "files": {"a.txt": "cd34..."}}

The hash covers the token file, which documents of it belong to the split, and their labels. The
names and hashes of the source files are kept only to say which of them changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxlm.data.sources.base import Source
from jaxlm.data.store.tokens import Documents

MOST_FILES = 1000  # a corpus of more files is compared all the same, but without their names


def split_content(
    documents: Documents,
    tokens_sha256: str,
    files: Mapping[str, str],
    columns: Iterable[np.ndarray] = (),
) -> dict[str, Any]:
    """The content of a split; `columns` are arrays of what else its rows are made of."""
    digest = hashlib.sha256(tokens_sha256.encode())
    for array in (documents.starts, documents.lengths, *columns):
        digest.update(np.ascontiguousarray(array).astype(np.dtype("<i8"), copy=False).tobytes())
    return {"sha256": digest.hexdigest(), "files": dict(files)}


def joined_content(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The content of a split that is made of parts."""
    hashes = {name: part["sha256"] for name, part in parts.items()}
    files = {f"{n}/{file}": digest for n, p in parts.items() for file, digest in p["files"].items()}
    text = json.dumps(hashes)  # the parts' order gives the rows' ids
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), "files": files}


def source_files(sources: Mapping[str, Source]) -> dict[str, str]:
    """{file: SHA-256} of all that some sources read; empty where they are too many to list."""
    found = {
        f"{name}/{file}" if len(sources) > 1 else file: digest
        for name, source in sources.items()
        for file, digest in source.contents()
    }
    return found if len(found) <= MOST_FILES else {}
