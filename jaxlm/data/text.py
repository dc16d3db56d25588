"""Running text as rows of tokens: documents from sources, or token files that exist already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxlm.config import REQUIRED, UserError, field
from jaxlm.data.prepared import PreparableData
from jaxlm.types import SourceConfig


@dataclass(frozen=True, kw_only=True)
class TextData(PreparableData):
    """Documents of one or several sources, tokenised once and cut into rows."""

    source: SourceConfig | None = field(None, "where the documents come from")
    sources: dict[str, SourceConfig] = field(dict, "several sources by name, instead of `source`")
    validation: SourceConfig | None = field(None, "a source of its own for validation")
    validation_fraction: float = field(0.1, "share of documents held out, without `validation`", ge=0, lt=1)
    split_by: Literal["name", "text"] = field(
        "name", "what is hashed to hold a document out: `text` keeps equal texts on one side"
    )
    split_salt: int = field(0, "changes which documents are held out")
    seq_len: int = field(256, "tokens that are predicted in a row", ge=1)
    order: Literal["shuffle", "stream"] = field(
        "shuffle", "rows shuffled anew each epoch, or consecutive windows down each row of the batch"
    )
    packing: Literal["split", "whole"] = field(
        "split", "cut the concatenated documents into rows, or fit whole documents into rows"
    )
    add_bos: bool = field(True, "begin each document with the tokenizer's bos, where it has one")
    add_eos: bool = field(True, "end each document with the tokenizer's eos, where it has one")

    def validate(self) -> None:
        if (self.source is None) == (not self.sources):
            raise UserError("needs either source or sources; set exactly one of them")
        _validate_rows(self.order, self.packing)


@dataclass(frozen=True, kw_only=True)
class TokenData(PreparableData):
    """A token file that exists already: a jaxlm store, nanoGPT's .bin or Megatron's .bin/.idx."""

    path: str = field(REQUIRED, "the store's folder, or the .bin file")
    format: Literal["jaxlm", "nanogpt", "megatron"] = field(REQUIRED, "what wrote the file")
    dtype: Literal["uint16", "uint32"] = field("uint16", "number type of a nanoGPT .bin")
    eos_id: int | None = field(None, "id that ends a document in a nanoGPT .bin; none: one document", ge=0)
    validation_path: str | None = field(None, "a store of its own for validation")
    validation_fraction: float = field(
        0.1, "share of documents held out, without `validation_path`", ge=0, lt=1
    )
    split_salt: int = field(0, "changes which documents are held out")
    seq_len: int = field(256, "tokens that are predicted in a row", ge=1)
    order: Literal["shuffle", "stream"] = field(
        "shuffle", "rows shuffled anew each epoch, or consecutive windows down each row of the batch"
    )
    packing: Literal["split", "whole"] = field(
        "split", "cut the concatenated documents into rows, or fit whole documents into rows"
    )

    def validate(self) -> None:
        _validate_rows(self.order, self.packing)


def _validate_rows(order: str, packing: str) -> None:
    if order == "stream" and packing == "whole":
        raise UserError("order: stream needs consecutive windows; set packing: split")
