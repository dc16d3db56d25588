"""Rows from token files that exist already: a jaxlm store, nanoGPT's .bin, Megatron's .bin and
.idx.

    data: {type: tokens, format: nanogpt, path: data/train.bin, validation_path: data/val.bin}

The file has no text: the tokenizer must be one that needs no training, and the one the file was
made with.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.core.files import file_sha256
from jaxlm.core.types import Tokenizer
from jaxlm.data.rows.lm_split import prepared_text
from jaxlm.data.sources.base import Source
from jaxlm.data.store.foreign import id_range, read_megatron, read_nanogpt
from jaxlm.data.store.prepared import DataConfig, Prepared, Report
from jaxlm.data.store.split import hash64, held_out
from jaxlm.data.store.tokens import Documents, TokenStore
from jaxlm.data.text import measured_splits
from jaxlm.data.tokenizers.base import ids_sha256


@dataclass(frozen=True, kw_only=True)
class TokenData(DataConfig):
    """A token file that exists already: a jaxlm store, nanoGPT's .bin or Megatron's .bin/.idx."""

    path: str = field(REQUIRED, "the store's folder, or the .bin file", path=True)
    format: Literal["jaxlm", "nanogpt", "megatron"] = field(REQUIRED, "what wrote the file")
    dtype: Literal["uint16", "uint32"] = field(
        "uint16", "number type of a nanoGPT .bin without llm.c's header"
    )
    eos_id: int | None = field(
        None, "id that ends a document in a nanoGPT .bin; none: one document", ge=0
    )
    validation_path: str | None = field(None, "a file of its own for validation", path=True)
    validation_fraction: float = field(
        0.1,
        "share of documents held out by a hash of their tokens, without `validation_path`",
        ge=0,
        lt=1,
    )
    split_salt: int = field(0, "changes which documents are held out")
    seq_len: int = field(256, "tokens that are predicted in a row", ge=1)
    order: Literal["shuffle", "stream"] = field(
        "shuffle",
        "rows shuffled again in each epoch, or consecutive windows down each row of the batch",
    )
    packing: Literal["split", "whole"] = field(
        "split", "cut the concatenated documents into rows, or fit whole documents into rows"
    )

    def validate(self) -> None:
        if self.order == "stream" and self.packing == "whole":
            raise UserError("order: stream needs consecutive windows; set packing: split")

    def training_texts(self) -> Iterator[str]:
        raise UserError(
            f"{self.path}: holds tokens, on which no tokenizer can be trained; "
            "name the tokenizer that made them (tokenizer.type: saved, or a model file)"
        )

    def corpus_fingerprint(self) -> str:
        return hashlib.sha256(f"{self.format}:{os.path.realpath(self.path)}".encode()).hexdigest()

    def tokenise(
        self, tokenizer: Tokenizer, cache_dir: Path, *, workers: int = 0, report: Report = print
    ) -> Prepared:
        files = {"train": self.path}
        if self.validation_path is not None:
            files["validation"] = self.validation_path
        documents = {name: self._read(path) for name, path in files.items()}
        facts = {
            name: file_facts(d.tokens.path, d, Path(cache_dir), report)
            for name, d in documents.items()
        }
        for name, path in files.items():
            if self.format == "jaxlm":
                check_tokenizer(path, tokenizer)
            check_vocabulary(path, facts[name]["ids"], tokenizer)
        if self.validation_path is None and self.validation_fraction > 0:
            both = documents["train"]
            out = held_out(
                content_hashes(both), self.validation_fraction, self.split_salt, "content"
            )
            documents = {"train": both.select(~out), "validation": both.select(out)}
        counts = {n: {"documents": len(d), "tokens": d.num_tokens} for n, d in documents.items()}
        return prepared_text(
            self,
            tokenizer,
            documents,
            counts,
            {name: (facts.get(name, facts["train"])["sha256"], {}) for name in documents},
            files=facts,
            begins_with_bos=begins_with(documents["train"], tokenizer.bos_id),
        )

    def measured(
        self,
        source: Source,
        tokenizer: Tokenizer,
        cache_dir: Path,
        facts: Mapping[str, Any],
        report: Report = print,
    ) -> Prepared:
        return measured_splits(self, source, tokenizer, cache_dir, report)

    def marks(self, manifest: Mapping[str, Any]) -> tuple[bool, bool]:
        return manifest.get("begins_with_bos", True), True

    def _read(self, path: str) -> Documents:
        if self.format == "jaxlm":
            return TokenStore.open(path).documents()
        if self.format == "megatron":
            return read_megatron(path)
        return read_nanogpt(path, self.dtype, self.eos_id)


def check_tokenizer(path: str, tokenizer: Tokenizer) -> None:
    """Raises UserError where a store of ours was made with another tokenizer."""
    made_with = TokenStore.open(path).manifest["tokenizer"]
    if made_with not in (tokenizer.fingerprint(), ids_sha256(tokenizer)):
        raise UserError(
            f"{path}: was made with another tokenizer (SHA-256 {made_with[:12]}..., this one has "
            f"{tokenizer.fingerprint()[:12]}...); name that one, or prepare again"
        )


def check_vocabulary(path: str, ids: list[int], tokenizer: Tokenizer) -> None:
    """Raises UserError where a file's ids [least, greatest] are not the tokenizer's."""
    if ids[0] < 0 or ids[1] >= tokenizer.vocab_size:
        raise UserError(
            f"{path}: ids from {ids[0]} to {ids[1]}, the tokenizer has {tokenizer.vocab_size}; "
            "use the tokenizer that made the file, and check format and dtype"
        )


def begins_with(documents: Documents, bos_id: int | None) -> bool:
    """Whether most documents begin with this id, by the first 1,000 of them."""
    firsts = [bool(documents.tokens[start] == bos_id) for start in documents.starts[:1000]]
    return bos_id is not None and sum(firsts) * 2 > len(firsts)


def content_hashes(documents: Documents) -> np.ndarray:
    """[n] uint64, of each document's ids (as int64, whatever type the file has)."""
    return np.fromiter(
        (hash64(documents.document(i).astype("<i8").tobytes()) for i in range(len(documents))),
        np.uint64,
        len(documents),
    )


def file_facts(path: Path, documents: Documents, cache_dir: Path, report: Report) -> dict[str, Any]:
    """Size, SHA-256 and id range of a token file, remembered for as long as the file is not
    touched.
    """
    state = path.stat()
    tokens = documents.tokens
    about = (
        f"{os.path.realpath(path)}:{state.st_size}:{state.st_mtime_ns}:{tokens.dtype}:{len(tokens)}"
    )
    memory = cache_dir / "token_files" / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.json"
    if memory.is_file():
        try:
            return json.loads(memory.read_text())
        except ValueError:
            pass  # cut short by a kill: made again below
    if state.st_size > 2**30:
        report(f"reading all of {path} once for its checksum and range of ids")
    facts = {
        "path": str(path),
        "bytes": state.st_size,
        "sha256": file_sha256(path),
        "dtype": documents.tokens.dtype.name,
        "ids": list(id_range(documents.tokens)),
    }
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps(facts))
    return facts
