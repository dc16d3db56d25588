"""A split of running text: its documents as windows or packed rows, in the order that the config
asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.types import RowDataset, Tokenizer
from jaxlm.data.rows.order import FiniteRows, InOrder, Shuffled
from jaxlm.data.rows.packing import PackedRows
from jaxlm.data.rows.windows import Lanes, Windows
from jaxlm.data.store.content import split_content
from jaxlm.data.store.prepared import Prepared, Split
from jaxlm.data.store.tokens import Documents


@dataclass(frozen=True)
class LanguageSplit:
    """Rows of running text. `order`: "in_order", "shuffle" or "stream"; `packing`: "split" or
    "whole".
    """

    documents: Documents
    seq_len: int
    order: str
    packing: str
    pad_id: int
    text_counts: dict[str, Any]

    @cached_property
    def rows(self) -> FiniteRows:
        """The rows in their natural order."""
        if self.packing == "whole":
            return PackedRows.plan(self.documents, self.seq_len, self.pad_id)
        return Windows(self.documents, self.seq_len, self.pad_id)

    @property
    def counts(self) -> dict[str, Any]:
        slots = len(self.rows) * (self.seq_len + 1)
        shared = (
            len(self.rows) - 1 if self.packing == "split" else 0
        )  # windows overlap by one token
        padding = (
            self.rows.padding
            if isinstance(self.rows, PackedRows)
            else 1 - (self.documents.num_tokens + shared) / slots
        )
        return {**self.text_counts, "rows": len(self.rows), "padding": round(padding, 6)}

    def dataset(self, *, batch_size: int, seed: int) -> RowDataset:
        if self.order == "stream":
            assert isinstance(self.rows, Windows)
            return Lanes(self.rows, batch_size)
        return InOrder(self.rows) if self.order == "in_order" else Shuffled(self.rows, seed)


def check_length(split: str, documents: Documents, seq_len: int) -> None:
    """Raises UserError where a split has too few tokens for its rows.

    Training needs at least one full window; validation at least one target.
    """
    size = documents.num_tokens
    if split == "train" and size < seq_len + 1:
        raise UserError(
            f"seq_len: a row of {seq_len} + 1 tokens is longer than the whole training split "
            f"({size} tokens); set seq_len to at most {max(1, size - 1)}, or add text"
        )
    if size < 2:
        raise UserError(
            f"the {split} split has {size} token(s) and nothing to predict; "
            "raise validation_fraction, or name a validation source with text"
        )


def language_splits(
    documents: Mapping[str, Documents],
    counts: Mapping[str, dict[str, Any]],
    *,
    seq_len: int,
    order: str,
    packing: str,
    pad_id: int,
) -> dict[str, Split]:
    """The splits of a text dataset; validation is read in order (in lanes too where `order` is
    "stream").
    """
    splits: dict[str, Split] = {}
    for name, chosen in documents.items():
        check_length(name, chosen, seq_len)
        in_order = name != "train" and order == "shuffle"
        splits[name] = LanguageSplit(
            chosen, seq_len, "in_order" if in_order else order, packing, pad_id, counts[name]
        )
    return splits


def prepared_text(
    data: Any,
    tokenizer: Tokenizer,
    documents: Mapping[str, Documents],
    text_counts: Mapping[str, dict[str, Any]],
    origins: Mapping[str, tuple[str, Mapping[str, str]]] | None,
    **facts: Any,
) -> Prepared:
    """The splits {name: documents} in the rows that a dataset's `seq_len`, `order` and `packing`
    ask for, with a manifest of the `facts`, the counts and the content.

    origins: {split: (SHA-256 of the token file, {source file: SHA-256})}; None: no manifest.
    """
    splits = language_splits(
        documents,
        text_counts,
        seq_len=data.seq_len,
        order=data.order,
        packing=data.packing,
        pad_id=tokenizer.pad_id,
    )
    manifest: dict[str, Any] = {}
    if origins is not None:
        manifest = {
            **facts,
            "tokenizer": tokenizer.fingerprint(),
            "splits": {name: split.counts for name, split in splits.items()},
            "content": {
                name: split_content(docs, *origins[name]) for name, docs in documents.items()
            },
        }
    spec = data.row_spec(tokenizer.pad_id)
    return Prepared(tokenizer, splits, manifest, data.seq_len, spec, consecutive=data.consecutive)
