"""Labelled short texts, one a row, for classification."""

from __future__ import annotations

from dataclasses import dataclass

from jaxlm.config import REQUIRED, field
from jaxlm.data.prepared import PreparableData
from jaxlm.types import SourceConfig


@dataclass(frozen=True, kw_only=True)
class ExampleData(PreparableData):
    """Labelled texts; a row is [bos] text [eos], cut or padded to seq_len."""

    source: SourceConfig = field(REQUIRED, "where the labelled texts come from")
    validation: SourceConfig | None = field(None, "a source of its own for validation")
    validation_fraction: float = field(
        0.2, "share held out by a hash of the text, without `validation`", ge=0, lt=1
    )
    split_salt: int = field(0, "changes which texts are held out")
    classes: tuple[str, ...] = field((), "the labels in order; empty: those of the training texts, sorted")
    seq_len: int = field(128, "tokens of a row; a longer text loses its end", ge=3)
    shuffle: bool = field(True, "draw in an order that changes each epoch; false: as in the source")
    add_bos: bool = field(True, "begin each text with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each text with the tokenizer's eos, where it has one")
