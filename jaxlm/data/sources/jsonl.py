"""JSON lines: an object with named columns a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxlm.core.config import field
from jaxlm.data.reading.compressed import open_file
from jaxlm.data.reading.rows import Row, jsonl_rows
from jaxlm.data.reading.text import decode, validate_text_options
from jaxlm.data.sources.base import Unit
from jaxlm.data.sources.base_rows import RowFiles


@dataclass(frozen=True, kw_only=True)
class JsonLines(RowFiles):
    """A JSON object a line, plain or .gz, .zst, .bz2 or .xz."""

    encoding: str = field("utf-8", "the encoding of the files; every byte must be valid in it")

    def validate(self) -> None:
        super().validate()
        validate_text_options(None, self.encoding)

    def rows(self, unit: Unit, columns: Sequence[str]) -> Iterator[Row]:
        with open_file(unit.origin) as file:
            where = str(unit.origin)
            pieces = decode(file, where, self.encoding)
            yield from jsonl_rows(pieces, where, self.max_document_chars)
