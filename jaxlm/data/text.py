"""Running text as rows of tokens, from sources of documents.

    data:
      type: text
      source: {type: text, files: "plays/*.txt"}
      seq_len: 256
      validation_fraction: 0.1

Held-out documents are chosen by a hash of their name or text, so adding a document moves no other
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.types import Tokenizer
from jaxlm.data.rows.lm_split import prepared_text
from jaxlm.data.sources.base import Source
from jaxlm.data.store.content import source_files
from jaxlm.data.store.prepared import DataConfig, Prepared, Report
from jaxlm.data.store.records import RecordStore
from jaxlm.data.store.split import Corpus
from jaxlm.data.store.tokenise import Options, prepare_store
from jaxlm.data.store.tokens import Documents, TokenStore


@dataclass(frozen=True, kw_only=True)
class TextData(DataConfig):
    """Documents of one or several sources, tokenised once and cut into rows."""

    source: Source | None = field(None, "where the documents come from")
    sources: dict[str, Source] = field(dict, "several sources by name, instead of `source`")
    validation: Source | None = field(None, "a source of its own for validation")
    validation_fraction: float = field(
        0.1, "share of documents held out, without `validation`", ge=0, lt=1
    )
    split_by: Literal["name", "text"] = field(
        "name", "what is hashed to hold a document out: `text` keeps equal texts on one side"
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
    add_bos: bool = field(True, "begin each document with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each document with the tokenizer's eos, where it has one")

    def validate(self) -> None:
        if (self.source is None) == (not self.sources):
            raise UserError("needs either source or sources; set exactly one of them")
        if self.order == "stream" and self.packing == "whole":
            raise UserError("order: stream needs consecutive windows; set packing: split")

    @property
    def corpus(self) -> Corpus:
        sources: Any = self.sources or {"source": self.source}
        fraction = 0.0 if self.validation is not None else self.validation_fraction
        return Corpus(sources, fraction, self.split_by, self.split_salt)

    def training_texts(self) -> Iterator[str]:
        return self.corpus.training_texts()

    def corpus_fingerprint(self) -> str:
        return self.corpus.fingerprint()

    def tokenise(
        self, tokenizer: Tokenizer, cache_dir: Path, *, workers: int = 0, report: Report = print
    ) -> Prepared:
        options = Options(add_bos=self.add_bos, add_eos=self.add_eos)
        corpus = self.corpus
        store = prepare_store(
            corpus.sources, tokenizer, options, cache_dir, workers=workers, report=report
        )
        stores = {"train": store}
        files = {"train": source_files(corpus.sources)}
        documents = corpus.split(store)
        if self.validation is not None:
            source: Any = {"validation": self.validation}
            held = prepare_store(
                source, tokenizer, options, cache_dir, workers=workers, report=report
            )
            stores["validation"] = held
            documents["validation"] = held.documents()
            train, other = (np.array(s.arrays["text_hashes"]) for s in (store, held))
            report_shared_texts(train, other, report)
            files["validation"] = source_files(source)
        counts = {
            name: stores.get(name, store).counts(docs.index) for name, docs in documents.items()
        }
        origins = {
            name: (
                stores.get(name, store).manifest["files"]["tokens.bin"]["sha256"],
                files.get(name, files["train"]),
            )
            for name in documents
        }
        facts = {name: store_facts(s) for name, s in stores.items()}
        return prepared_text(self, tokenizer, documents, counts, origins, stores=facts)

    def measured(
        self,
        source: Source,
        tokenizer: Tokenizer,
        cache_dir: Path,
        facts: Mapping[str, Any],
        report: Report = print,
    ) -> Prepared:
        return measured_splits(self, source, tokenizer, cache_dir, report)


def measured_splits(
    data: Any, source: Source, tokenizer: Tokenizer, cache_dir: Path, report: Report
) -> Prepared:
    """A source of running text as a validation split, in rows as those of `data`."""
    options = Options(
        add_bos=getattr(data, "add_bos", True), add_eos=getattr(data, "add_eos", True)
    )
    store = prepare_store({"validation": source}, tokenizer, options, cache_dir, report=report)
    documents: dict[str, Documents] = {"validation": store.documents()}
    counts = {"validation": store.counts(documents["validation"].index)}
    return prepared_text(data, tokenizer, documents, counts, None)


def store_facts(store: TokenStore | RecordStore) -> dict[str, Any]:
    """The facts about a store in a run's manifest: where it is, what it came from, its hashes and
    counts.
    """
    return {"folder": str(store.folder), **store.manifest}


def report_shared_texts(train: np.ndarray, validation: np.ndarray, report: Report) -> None:
    """Warns of validation texts that are training texts too, by their hashes."""
    shared = int(np.isin(validation, train).sum())
    if shared:
        many = f"{shared} of {len(validation)} validation texts"
        report(f"warning: {many} are in the training source too")
