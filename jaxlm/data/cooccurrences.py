"""Cells of a matrix of co-occurrences as rows, counted in running text: what GloVe learns from.

    data:
      type: cooccurrences
      source: {type: text, files: "books/*.txt"}
      window: 15

The text is tokenised and its co-occurrences are counted once, when the data is prepared
(`jaxlm.data.store.cooccurrences`); a row is a block of shuffled cells, and the order of the blocks
changes each epoch. So a run that counts and descends is a run of the one loop: a killed one finds
its cells in the cache, or what was counted of them. A share of the cells, drawn by a hash, is the
validation split: held-out documents would have counts of another size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.core.config import UserError, field
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.core.types import RowDataset, Tokenizer
from jaxlm.data.rows.order import InOrder, Row, Shuffled
from jaxlm.data.sources.base import Source
from jaxlm.data.store.content import source_files
from jaxlm.data.store.cooccurrences import (
    MAX_WINDOW,
    CooccurrenceStore,
    Counting,
    count_cooccurrences,
)
from jaxlm.data.store.prepared import DataConfig, Prepared, Report, Split
from jaxlm.data.store.split import Corpus
from jaxlm.data.store.tokenise import Options, prepare_store
from jaxlm.data.store.tokens import TokenFile

MOST_CELLS = 10  # of a row that are shown


@dataclass(frozen=True)
class Cells:
    """The cells of a split in rows of `size`; the last row is padded."""

    cells: Mapping[str, TokenFile]
    size: int
    padding: Row

    def __len__(self) -> int:
        return -(-len(self.cells["rows"]) // self.size)

    def __getitem__(self, index: int) -> Row:
        found = {**self.padding, "id": np.int64(index)}
        for name, values in self.cells.items():
            part = values[index * self.size : (index + 1) * self.size]
            if len(part) == self.size:
                found[name] = np.array(part)
            else:
                found[name] = self.padding[name].copy()
                found[name][: len(part)] = part
        found["segment_ids"] = (found["counts"] > 0).astype(np.int32)
        return found


@dataclass(frozen=True)
class CellSplit:
    """One split: shuffled again each epoch for training, in order for validation."""

    rows: Cells
    shuffle: bool
    text_counts: Mapping[str, Any]

    @property
    def counts(self) -> dict[str, Any]:
        return {
            **self.text_counts,
            "cells": len(self.rows.cells["rows"]),
            "rows": len(self.rows),
        }

    def shown(self, index: int, row: Row, tokenizer: Tokenizer) -> list[str]:
        """A row as `jaxlm data inspect` shows it: its first cells, by their words."""
        real = int(row["segment_ids"].sum())
        lines = [f"row {index}, id {int(row['id'])}: {real} cells, {self.rows.size - real} padding"]
        for a, b, count in zip(row["rows"], row["columns"], row["counts"], strict=True):
            if len(lines) > min(real, MOST_CELLS):
                break
            words = (tokenizer.decode([int(i)]).strip() for i in (a, b))
            lines.append(f"  {' '.join(words)}: {count:.4g}")
        return lines

    def dataset(self, *, batch_size: int, seed: int) -> RowDataset:
        return Shuffled(self.rows, seed) if self.shuffle else InOrder(self.rows)


@dataclass(frozen=True, kw_only=True)
class Cooccurrences(DataConfig):
    """How often words occur near each other in documents of one or several sources."""

    source: Source | None = field(None, "where the documents come from")
    sources: dict[str, Source] = field(dict, "several sources by name, instead of `source`")
    window: int = field(
        15, "words on each side that are near; at a distance of d they count 1 / d",
        ge=1, le=MAX_WINDOW,
    )  # fmt: skip
    symmetric: bool = field(True, "words on both sides are near; false: those before alone")
    validation_fraction: float = field(
        0.01, "share of the cells that is held out, by a hash", ge=0, lt=1
    )
    split_salt: int = field(0, "changes which cells are held out", ge=0)
    row_cells: int = field(512, "cells of a row", ge=1)

    def validate(self) -> None:
        if (self.source is None) == (not self.sources):
            raise UserError("needs either source or sources; set exactly one of them")

    @property
    def corpus(self) -> Corpus:
        sources: Any = self.sources or {"source": self.source}
        return Corpus(sources, 0.0, "name", 0)

    @property
    def row_length(self) -> int:
        return self.row_cells

    def row_spec(self, pad_id: int = 0) -> RowSpec:
        return RowSpec(
            {
                "rows": Entry(("T",)),
                "columns": Entry(("T",)),
                "counts": Entry(("T",), np.float32, pad=0.0),
                "segment_ids": Entry(("T",)),
            },
            T=self.row_cells,
        )

    def training_texts(self) -> Iterator[str]:
        return self.corpus.training_texts()

    def corpus_fingerprint(self) -> str:
        return self.corpus.fingerprint()

    def tokenise(
        self, tokenizer: Tokenizer, cache_dir: Path, *, workers: int = 0, report: Report = print
    ) -> Prepared:
        fraction = self.validation_fraction
        store, facts = self._counted(self.corpus, fraction, tokenizer, cache_dir, workers, report)
        splits = self._splits(store, [name for name, n in store.manifest["cells"].items() if n])
        if fraction and "validation" not in splits:
            report("warning: no cell is held out: they are too few, raise data.validation_fraction")
        files = store.manifest["files"]
        manifest = {
            "tokenizer": tokenizer.fingerprint(),
            "stores": {"train": {"folder": str(store.folder), **store.manifest}},
            "text": facts,
            "splits": {name: split.counts for name, split in splits.items()},
            "content": {
                name: {
                    "sha256": files[f"{name}_counts.bin"]["sha256"],
                    "files": source_files(self.corpus.sources),
                }
                for name in splits
            },
        }
        return Prepared(tokenizer, splits, manifest, self.row_cells, self.row_spec())

    def measured(
        self,
        source: Source,
        tokenizer: Tokenizer,
        cache_dir: Path,
        facts: Mapping[str, Any],
        report: Report = print,
    ) -> Prepared:
        corpus = Corpus({"validation": source}, 0.0, "name", 0)
        store, _ = self._counted(corpus, 0.0, tokenizer, cache_dir, 0, report)
        rows = self._cells(store, "train")
        splits: dict[str, Split] = {"validation": CellSplit(rows, False, {})}
        return Prepared(tokenizer, splits, {}, self.row_cells, self.row_spec())

    def _counted(
        self,
        corpus: Corpus,
        held_out: float,
        tokenizer: Tokenizer,
        cache_dir: Path,
        workers: int,
        report: Report,
    ) -> tuple[CooccurrenceStore, dict[str, int]]:
        """The cells of a corpus, and the counts of its text."""
        options = Options(add_bos=False, add_eos=False)
        tokens = prepare_store(
            corpus.sources, tokenizer, options, cache_dir, workers=workers, report=report
        )
        documents = tokens.documents()
        no_words = {tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id}
        if not tokenizer.token_bytes[tokenizer.pad_id]:  # some tokenizers pad with a character
            no_words.add(tokenizer.pad_id)
        counting = Counting(
            vocab_size=tokenizer.vocab_size,
            left_out=tuple(sorted(i for i in no_words if i is not None)),
            window=self.window,
            symmetric=self.symmetric,
            held_out=held_out,
            salt=self.split_salt,
        )
        files = tokens.manifest["files"]
        digest = files["tokens.bin"]["sha256"] + files["offsets.npy"]["sha256"]
        store = count_cooccurrences(
            documents, digest, counting, cache_dir, workers=workers, report=report
        )
        return store, tokens.counts(documents.index)

    def _splits(self, store: CooccurrenceStore, names: list[str]) -> dict[str, Split]:
        return {name: CellSplit(self._cells(store, name), name == "train", {}) for name in names}

    def _cells(self, store: CooccurrenceStore, split: str) -> Cells:
        return Cells(store.cells(split), self.row_cells, self.row_spec().padding())
