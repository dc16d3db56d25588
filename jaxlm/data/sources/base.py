"""Where documents come from: what every source offers, and text files.

Files of rows are in `jaxlm.data.sources.tables`; packages, the standard library and synthetic text
in `jaxlm.data.sources.corpora`.

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

import difflib
import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxlm.core.config import REQUIRED, Config, Kind, UserError, field, to_dict, type_name
from jaxlm.core.errors import looked_from, shown
from jaxlm.data.sources.compressed import open_file
from jaxlm.data.sources.formats import MAX_DOCUMENT_CHARS, check_characters, decode, split_documents
from jaxlm.data.sources.remembered import file_checksum

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
    """What every source offers. A kind of source gives `units`, `read` and `contents`."""

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

    def describe(self) -> str:
        """What an error calls this source: "text source books/*.txt"."""
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


# ------------------------------------------------------------------------------------- local files


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
        for name, path in match_files(self.files).items():
            yield name, file_checksum(path)


def match_files(patterns: Iterable[str]) -> dict[str, Path]:
    """{name: path} of the files that match, sorted by name.

    A name is the path below the pattern's fixed part ("books/**/*.txt" names "en/a.txt"), so that
    it is the same wherever the folder is; where two patterns give one name, names are whole
    paths.
    """
    found: list[tuple[str, str]] = []
    for pattern in patterns:
        full = os.path.expanduser(pattern)
        matches = [p for p in sorted(glob.glob(full, recursive=True)) if os.path.isfile(p)]
        if not matches:
            raise _no_match(pattern, full)
        fixed = full
        while glob.has_magic(fixed) or not os.path.isdir(fixed or "."):
            fixed = os.path.dirname(fixed)
        found += [(os.path.relpath(path, fixed or "."), path) for path in matches]
    found = list(dict.fromkeys(found))
    if len({name for name, _ in found}) < len({os.path.realpath(path) for _, path in found}):
        found = [(path, path) for _, path in found]
    return {Path(name).as_posix(): Path(path) for name, path in sorted(found)}


def _no_match(pattern: str, full: str) -> UserError:
    if os.path.isdir(full):
        return UserError(f"{pattern}: is a folder; name its files, for instance {pattern}/**/*.txt")
    folder = os.path.dirname(full) or "."
    if glob.has_magic(full) or not os.path.isdir(folder):
        return UserError(
            f"{pattern}: matches no file (looked from {os.getcwd()}); check the pattern"
        )
    near = difflib.get_close_matches(os.path.basename(full), os.listdir(folder), n=1)
    hint = f"did you mean {os.path.join(os.path.dirname(pattern), near[0])}?" if near else ""
    hint = hint or "check the path"
    return UserError(f"{pattern}: no such file{looked_from(pattern)}; {hint}")


@dataclass(frozen=True, kw_only=True)
class TextFiles(FileSource, type="text"):
    """Text files, plain or .gz, .zst, .bz2 or .xz; each file is a document."""

    document_separator: str | None = field(
        None, 'text between documents, to split a file into many ("<|endoftext|>"); it is dropped'
    )
    encoding: str = field("utf-8", "of the files; every byte must be valid in it")

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


def validate_text_options(separator: str | None, encoding: str) -> None:
    if separator == "":
        raise UserError("document_separator is empty; leave it out to keep each file whole")
    try:
        "".encode(encoding)
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        raise UserError(f"unknown encoding {shown(encoding)}; use utf-8, latin-1, ...") from None


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
