"""Text files: a document a file, or several between separators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from jaxlm.core.config import field
from jaxlm.data.reading.compressed import open_file
from jaxlm.data.reading.text import decode, split_documents, validate_text_options
from jaxlm.data.sources.base import Document, FileSource, Unit, text_documents


@dataclass(frozen=True, kw_only=True)
class TextFiles(FileSource):
    """Text files, plain or .gz, .zst, .bz2 or .xz; each file is a document."""

    document_separator: str | None = field(
        None, 'text between documents, to split a file into many ("<|endoftext|>"); it is dropped'
    )
    encoding: str = field("utf-8", "the encoding of the files; every byte must be valid in it")

    def validate(self) -> None:
        validate_text_options(self.document_separator, self.encoding)

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        with open_file(unit.origin) as file:
            where = str(unit.origin)
            texts = split_documents(
                decode(file, where, self.encoding),
                self.document_separator,
                where,
                self.max_document_chars,
            )
            yield from text_documents(texts, unit.name, self.document_separator, counts)
