"""The token store: documents as token ids in one file, written once, read by memory map at random
access.

A folder named by what went into it (contents of the sources, tokenizer, options), with

    tokens.bin       uint16 or uint32 by vocabulary, all documents one after the other
    offsets.npy      [documents + 1] int64, where each document begins
    name_hashes.npy, text_hashes.npy [documents] uint64    for splits in any order
    num_bytes.npy, num_chars.npy     [documents] int64     of the text (UTF-8)
    labels.npy       [documents] int32, index into the manifest's "labels"; -1 without a label
    names.jsonl      one name a line
    manifest.json    fingerprints, counts, and the size and SHA-256 of every file above

    store = TokenStore.open(folder)
    store.documents().tokens[store.offsets[3] : store.offsets[4]]     # document 3

`jaxlm.data.store.tokenise` writes it; `jaxlm.data.store.foreign` reads what other
programs wrote.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from jaxlm.core.config import UserError
from jaxlm.data.store.manifest import check_files, damaged, load_array, read_manifest

ARRAYS = {
    "offsets": np.int64,
    "name_hashes": np.uint64,
    "text_hashes": np.uint64,
    "num_bytes": np.int64,
    "num_chars": np.int64,
    "labels": np.int32,
}
TOKEN_DTYPES = ("uint16", "uint32")
FORMAT_VERSION = 1


class TokenFile:
    """A file of token ids, mapped when it is first read; each process maps its own."""

    def __init__(
        self, path: Path, dtype: np.dtype | type | str, *, skip: int = 0, length: int | None = None
    ):
        self.path, self.dtype, self._skip = Path(path), np.dtype(dtype), skip
        size = self.path.stat().st_size - skip
        self.length = size // self.dtype.itemsize if length is None else length

    @cached_property
    def _map(self) -> np.ndarray:
        if self.length == 0:  # an empty file cannot be mapped
            return np.zeros(0, self.dtype)
        memory = np.memmap(self.path, self.dtype, "r", offset=self._skip, shape=(self.length,))
        return memory.view(np.ndarray)  # slices of a plain array are several times quicker

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._map[index]

    def stretches(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The tokens [n, length] from each of `starts` [n] on: a copy of a stretch for each."""
        tokens = self._map
        assert len(starts) == 0 or (starts.min() >= 0 and starts.max() + length <= len(tokens))
        shape, strides = (max(0, len(tokens) - length + 1), length), 2 * tokens.strides
        return as_strided(tokens, shape, strides, writeable=False)[starts]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_map"}


@dataclass(frozen=True)
class Documents:
    """Some documents of a token file, in order: document i is tokens[starts[i] : starts[i] +
    lengths[i]].

    No document is empty. `index` says which documents of the file these are.
    """

    tokens: TokenFile
    starts: np.ndarray  # [n] int64
    lengths: np.ndarray  # [n] int64
    index: np.ndarray = field(repr=False)  # [n] int64

    def __post_init__(self) -> None:
        assert len(self.starts) == len(self.lengths) == len(self.index)
        assert (self.lengths > 0).all(), "an empty document"

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def offsets(self) -> np.ndarray:
        """[n + 1] int64: where each document begins when these are laid end to end."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths, dtype=np.int64)])

    @property
    def num_tokens(self) -> int:
        return int(self.offsets[-1])

    def select(self, mask: np.ndarray) -> Documents:
        """The documents where `mask` [n] is true."""
        return Documents(self.tokens, self.starts[mask], self.lengths[mask], self.index[mask])

    def document(self, i: int) -> np.ndarray:
        """The token ids of document i, [lengths[i]]."""
        return self.tokens[self.starts[i] : self.starts[i] + self.lengths[i]]


@dataclass(frozen=True)
class TokenStore:
    """A committed token store; `arrays` holds what ARRAYS names."""

    folder: Path
    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path, *, full: bool = False) -> TokenStore:
        """Opens a store and checks the size and the SHA-256 of every file.

        A file over 256 MB whose size and time are those of the last check is not read again, unless
        `full` asks for it.

        Raises UserError for a folder without a store, and for a damaged one.
        """
        folder = Path(folder)
        manifest = _read(folder)
        check_files(folder, manifest, full)
        arrays = {name: load_array(folder / f"{name}.npy", dtype) for name, dtype in ARRAYS.items()}
        _check_arrays(folder, manifest, arrays)
        return cls(folder, manifest, arrays)

    def documents(self) -> Documents:
        """All documents of the store."""
        offsets = self.arrays["offsets"]
        tokens = TokenFile(self.folder / "tokens.bin", np.dtype(self.manifest["dtype"]))
        lengths = np.diff(offsets)
        return Documents(tokens, np.array(offsets[:-1]), lengths, np.arange(len(lengths)))

    def names(self) -> list[str]:
        """The documents' names, in order."""
        with open(self.folder / "names.jsonl", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def counts(self, index: np.ndarray) -> dict[str, int]:
        """Documents, tokens, bytes and characters of the documents `index`."""
        lengths = np.diff(self.arrays["offsets"])
        return {
            "documents": len(index),
            "tokens": int(lengths[index].sum()),
            "bytes": int(self.arrays["num_bytes"][index].sum()),
            "chars": int(self.arrays["num_chars"][index].sum()),
        }


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    arrays = [f"{name}.npy" for name in ARRAYS]
    manifest = read_manifest(folder, FORMAT_VERSION, ["tokens.bin", "names.jsonl", *arrays])
    if manifest.get("dtype") not in TOKEN_DTYPES:
        raise UserError(
            f"{path}: dtype {manifest.get('dtype')!r} is not a type of token ids; "
            f"write the store with one of {', '.join(TOKEN_DTYPES)}"
        )
    return manifest


def _check_arrays(folder: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Raises UserError where the index does not describe the token file.

    Checksums say that files are as they were written, not that what wrote them was right.
    """
    offsets = arrays["offsets"]
    size = (folder / "tokens.bin").stat().st_size
    tokens, rest = divmod(size, np.dtype(manifest["dtype"]).itemsize)
    path = folder / "offsets.npy"
    if rest:
        raise damaged(folder / "tokens.bin", f"{size} bytes do not divide into its dtype")
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != tokens:
        raise damaged(path, f"does not span the {tokens} tokens of tokens.bin")
    if not (offsets[1:] > offsets[:-1]).all():
        where = int(np.argmin(offsets[1:] > offsets[:-1]))
        raise damaged(path, f"does not rise at document {where}")
    for name, array in arrays.items():
        if len(array) != len(offsets) - (name != "offsets"):
            raise damaged(folder / f"{name}.npy", f"does not have {len(offsets) - 1} documents")
    labels, count = arrays["labels"], len(manifest.get("labels", ()))
    if len(labels) and (labels.min() < -1 or labels.max() >= count):
        raise damaged(folder / "labels.npy", f"names labels that are not among the {count}")
