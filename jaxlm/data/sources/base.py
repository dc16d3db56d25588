"""Sources of documents: the interface of each.

A source of files derives from `FileSource`, one of files with named columns from `RowFiles`
(base_rows.py).

    source = TextFiles(files=("books/*.txt",))
    for document in source.documents():
        print(document.name, len(document.text))
    for name, record in source.records(("question", "answer")):
        print(name, record["question"])

A source is a config. It gives running text as documents, and for tasks records: dicts of named
columns. `units()` gives the same in pieces that processes can read independently, always
in one fixed order. Nothing is left out silently: blank documents and rows without a usable label
are counted in the `counts` that the caller passes. `fingerprint()` is equal where the names,
contents and options are, wherever the files are.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxlm.core.config import REQUIRED, Config, Kind, UserError, field, to_dict, type_name
from jaxlm.data.reading.files import match_files
from jaxlm.data.reading.remembered import file_checksums
from jaxlm.data.reading.text import MAX_DOCUMENT_CHARS, check_characters

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """A text, its stable name ("hamlet.txt", "reviews.jsonl:12") and, where labelled, its class."""

    text: str
    name: str
    label: str | None = None


@dataclass(frozen=True)
class Unit:
    """A piece of a source that any process can read alone (picklable): a file, a row group."""

    name: str
    origin: Any
    source: Source

    def documents(self, counts: Counter[str] | None = None) -> Iterator[Document]:
        """Its documents in order; `counts` counts what was left out ("blank", ...)."""
        yield from self.source.read(self, Counter() if counts is None else counts)

    def records(
        self, columns: Sequence[str], counts: Counter[str] | None = None
    ) -> Iterator[tuple[str, Record]]:
        """(name, record) in order, each record with these columns."""
        counts = Counter() if counts is None else counts
        yield from self.source.read_records(self, columns, counts)


@dataclass(frozen=True, kw_only=True)
class Source(Config):
    """The interface of every source. A kind of source gives `units`, `read` and `contents`."""

    kind: ClassVar = Kind("sources", "source", folder="jaxlm.data.sources")

    # Options that only say where the contents are: the contents' own hashes are in the fingerprint.
    places: ClassVar[tuple[str, ...]] = ()
    # Raise it when the same files and options come to give other documents.
    reading_version: ClassVar[int] = 1

    def units(self) -> list[Unit]:
        """The source in pieces, in order; raises `UserError` where nothing matches."""
        raise NotImplementedError

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        """The documents of one unit."""
        raise NotImplementedError

    def read_records(
        self, unit: Unit, columns: Sequence[str], counts: Counter[str]
    ) -> Iterator[tuple[str, Record]]:
        """(name, record) of one unit. A source of documents has the columns `text` and, where they
        are labelled, `label`.
        """
        for document in self.read(unit, counts):
            record = {"text": document.text}
            if document.label is not None:
                record["label"] = document.label
            if missing := [name for name in columns if name not in record]:
                raise UserError(
                    f"{document.name}: no column {missing[0]!r}: {self.describe()} gives "
                    f"{' and '.join(record)}; use a table (csv, jsonl, parquet) that has it"
                )
            yield document.name, {name: record[name] for name in columns}

    def contents(self) -> Iterator[tuple[str, str]]:
        """(name, SHA-256) of every file that is read."""
        raise NotImplementedError

    def documents(self, counts: Counter[str] | None = None) -> Iterator[Document]:
        """All documents, unit by unit; raises `UserError` for an empty source."""
        counts = Counter() if counts is None else counts
        empty = True
        for unit in self.units():
            for document in unit.documents(counts):
                empty = False
                yield document
        if empty:
            raise empty_corpus(self, counts)

    def records(
        self, columns: Sequence[str], counts: Counter[str] | None = None
    ) -> Iterator[tuple[str, Record]]:
        """(name, record) of all records, unit by unit; raises `UserError` for an empty source."""
        counts = Counter() if counts is None else counts
        empty = True
        for unit in self.units():
            for named in unit.records(columns, counts):
                empty = False
                yield named
        if empty:
            raise empty_corpus(self, counts)

    def fingerprint(self) -> str:
        """SHA-256 over the options and the names and contents of all that is read."""
        left_out = (*self.places, "max_document_chars")  # which changes no document
        options = {k: v for k, v in to_dict(self).items() if k not in left_out}
        identity = [self.reading_version, options, *self.contents()]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def recognised(self, columns: Sequence[str]) -> str:
        """The findings about the files that reading these columns needed, as a line for the user;
        "" for a source that is told everything. Raises `UserError` where they cannot be read.
        """
        return ""

    def describe(self) -> str:
        """The name of this source in errors: "text source books/*.txt"."""
        files = ", ".join(getattr(self, "files", ()))
        return f"{type_name(type(self))} source {files}".rstrip()


def empty_corpus(source: Source, counts: Counter[str]) -> UserError:
    """The error for a source whose units gave no document (for those who read units themselves)."""
    left_out = ", ".join(
        f"{number} {reason}" for reason, number in sorted(counts.items()) if number
    )
    return UserError(
        f"{source.describe()}: no documents ({left_out or 'nothing'} left out); "
        "check the files, the columns and the label rules"
    )


@dataclass(frozen=True, kw_only=True)
class ReadSource(Source, abstract=True):
    """A source that reads files, which may hold documents of any length."""

    max_document_chars: int = field(
        MAX_DOCUMENT_CHARS,
        "characters of one document, or of one row of a file: a longer one is an error, because "
        "a document is held in memory",
        ge=1,
    )


@dataclass(frozen=True, kw_only=True)
class FileSource(ReadSource, abstract=True):
    """Files on this machine, found by glob patterns."""

    places = ("files",)

    files: tuple[str, ...] = field(
        REQUIRED,
        "paths or glob patterns of the files (** for all folders below; ~ is the home; "
        "relative ones start where the command is started)",
        path=True,
    )

    def units(self) -> list[Unit]:
        return [Unit(name, path, self) for name, path in match_files(self.files).items()]

    def contents(self) -> Iterator[tuple[str, str]]:
        found = match_files(self.files)
        yield from zip(found, file_checksums(list(found.values())), strict=True)


def text_documents(
    texts: Iterable[str], name: str, separator: str | None, counts: Counter[str]
) -> Iterator[Document]:
    """A file's texts as documents: "name", or with a separator "name#0", "name#1", ..."""
    for number, text in enumerate(texts):
        if text.strip():
            name_here = name if separator is None else f"{name}#{number}"
            check_characters(text, name_here)
            yield Document(text, name_here)
        elif separator is None or text:
            counts["blank"] += 1
