"""Labelled short texts, one a row, for classification.

    data:
      type: examples
      source: {type: csv, files: reviews.csv, text_column: review, label_column: sentiment}

A row is [bos] text [eos], padded to seq_len; a longer text loses its end but keeps the eos, and the
manifest counts how many did. Equal texts always fall into the same split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.core.errors import few
from jaxlm.core.types import RowDataset, Tokenizer
from jaxlm.data.rows.order import InOrder, Row, Shuffled, padding_row
from jaxlm.data.sources.base import Source
from jaxlm.data.store.content import source_files, split_content
from jaxlm.data.store.prepared import DataConfig, Prepared, Report, Split
from jaxlm.data.store.split import Corpus
from jaxlm.data.store.tokenise import Options, prepare_store
from jaxlm.data.store.tokens import Documents, TokenStore
from jaxlm.data.text import report_shared_texts, store_facts


@dataclass(frozen=True, kw_only=True)
class ExampleData(DataConfig):
    """Labelled texts; a row is [bos] text [eos], cut or padded to seq_len."""

    source: Source = field(REQUIRED, "where the labelled texts come from")
    validation: Source | None = field(None, "a source of its own for validation")
    validation_fraction: float = field(
        0.2, "share held out by a hash of the text, without `validation`", ge=0, lt=1
    )
    split_salt: int = field(0, "changes which texts are held out")
    classes: tuple[str, ...] = field(
        (), "the labels in order; empty: those of the training texts, sorted"
    )
    seq_len: int = field(128, "tokens of a row; a longer text loses its end", ge=3)
    shuffle: bool = field(True, "draw in an order that changes each epoch; false: as in the source")
    add_bos: bool = field(True, "begin each text with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each text with the tokenizer's eos, where it has one")

    def validate(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            raise UserError("classes names a label twice; name each once")
        if len(self.classes) == 1:
            raise UserError("classes names one label only; name at least two, or none to find them")

    @property
    def row_kind(self) -> str:
        return "examples"

    @property
    def corpus(self) -> Corpus:
        fraction = 0.0 if self.validation is not None else self.validation_fraction
        sources: Any = {"source": self.source}
        return Corpus(sources, fraction, "text", self.split_salt)

    def training_texts(self) -> Iterator[str]:
        return self.corpus.training_texts()

    def corpus_fingerprint(self) -> str:
        return self.corpus.fingerprint()

    def tokenise(
        self, tokenizer: Tokenizer, cache_dir: Path, *, workers: int = 0, report: Report = print
    ) -> Prepared:
        options = Options(add_bos=self.add_bos, add_eos=self.add_eos, labelled=True)
        corpus = self.corpus
        store = prepare_store(
            corpus.sources, tokenizer, options, cache_dir, workers=workers, report=report
        )
        stores = {"train": store}
        files = {"train": source_files(corpus.sources)}
        content = {}
        documents = corpus.split(store)
        if self.validation is not None:
            source: Any = {"validation": self.validation}
            held = prepare_store(
                source, tokenizer, options, cache_dir, workers=workers, report=report
            )
            stores["validation"] = held
            documents["validation"] = held.documents()
            report_shared_texts(store, held, report)
            files["validation"] = source_files(source)
        classes = self.classes or find_classes(store, documents["train"])
        eos_id = tokenizer.eos_id if self.add_eos else None
        splits: dict[str, Split] = {}
        for name, chosen in documents.items():
            origin = stores.get(name, store)
            split = ExampleSplit(
                examples=Examples(
                    chosen,
                    class_ids(origin, chosen, classes, name),
                    self.seq_len,
                    tokenizer.pad_id,
                    eos_id,
                ),
                shuffle=self.shuffle and name == "train",
                counts=origin.counts(chosen.index),
            )
            splits[name] = replace(split, counts=split.all_counts(classes))
            tokens = origin.manifest["files"]["tokens.bin"]["sha256"]
            names = files.get(name, files["train"])
            content[name] = split_content(chosen, tokens, names, [split.examples.labels])
        manifest = {
            "tokenizer": tokenizer.fingerprint(),
            "classes": list(classes),
            "stores": {name: store_facts(s) for name, s in stores.items()},
            "splits": {name: split.counts for name, split in splits.items()},
            "content": content,
        }
        return Prepared(tokenizer, splits, manifest, self.seq_len, classes, self.row_kind)


@dataclass(frozen=True)
class Examples:
    """Example i as a row of seq_len tokens with its class."""

    documents: Documents
    labels: np.ndarray  # [n] int32
    seq_len: int
    pad_id: int
    eos_id: int | None  # stands at the end of a text that was cut, too

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Row:
        row = padding_row(self.seq_len, self.pad_id, index)
        tokens = self.documents.document(index)
        length = min(len(tokens), self.seq_len)
        row["tokens"][:length] = tokens[:length]
        if length < len(tokens) and self.eos_id is not None:
            row["tokens"][-1] = self.eos_id
        row["segment_ids"][:length] = 1
        row["positions"][:length] = np.arange(length)
        row["label"] = self.labels[index]
        row["weight"] = np.float32(1)
        return row


@dataclass(frozen=True)
class ExampleSplit:
    """A split of labelled texts."""

    examples: Examples
    shuffle: bool
    counts: dict[str, Any]

    def dataset(self, *, batch_size: int, seed: int) -> RowDataset:
        return Shuffled(self.examples, seed) if self.shuffle else InOrder(self.examples)

    def all_counts(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """The store's counts, and rows, texts that were cut, examples a class, share of padding."""
        rows, lengths = self.examples, self.examples.documents.lengths
        filled = int(np.minimum(lengths, rows.seq_len).sum())
        a_class = np.bincount(rows.labels, minlength=len(classes)).tolist()
        return {
            **self.counts,
            "rows": len(rows),
            "truncated": int((lengths > rows.seq_len).sum()),
            "classes": dict(zip(classes, a_class, strict=True)),
            "padding": round(1 - filled / (len(rows) * rows.seq_len), 6),
        }


def find_classes(store: TokenStore, documents: Documents) -> tuple[str, ...]:
    """The labels of some documents, sorted."""
    codes = np.unique(store.arrays["labels"][documents.index])
    classes = tuple(sorted(store.manifest["labels"][code] for code in codes))
    if len(classes) < 2:
        raise UserError(
            f"the training texts have one label only ({', '.join(classes)}); "
            "check the source's label column, or name the classes in data.classes"
        )
    return classes


def class_ids(
    store: TokenStore, documents: Documents, classes: tuple[str, ...], split: str
) -> np.ndarray:
    """[n] int32: each document's place in `classes`."""
    codes = np.array(store.arrays["labels"])[documents.index]
    labels = store.manifest["labels"]
    unknown = sorted({labels[code] for code in np.unique(codes)} - set(classes))
    if unknown:
        raise UserError(
            f"the {split} split has labels that are no class: {few(unknown)} "
            f"(classes: {few(classes)}); name all labels in data.classes, or drop those rows"
        )
    table = {label: number for number, label in enumerate(classes)}
    return np.array([table.get(label, -1) for label in labels], np.int32)[codes]
