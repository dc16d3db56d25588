"""A user's file, or files that belong together, as rows and as lines.

    for here, row in Opened(Group((Path("reviews.csv"),)), source).rows():
        ...

Which of the two a file has follows from its ending, and for other endings from its beginning. Files
of texts in several folders belong to classes (`pos/1.txt`, `neg/1.txt`), and files that differ only
in their endings are in two languages (`train.en`, `train.de`).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.optional import need
from jaxlm.data.formats.base import Placed
from jaxlm.data.reading.compressed import open_file, uncompressed_name
from jaxlm.data.reading.json_values import json_rows
from jaxlm.data.reading.rows import csv_rows, jsonl_rows
from jaxlm.data.reading.text import decode, lines, split_documents

ROWS, LINES = "rows", "lines"
KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
}
TEXTS = (".txt", ".text", ".md", "")
LANGUAGE = re.compile(r"\.([a-z]{2,3}([-_][A-Za-z]{2,4})?)")
JSON = re.compile(r'\s*(\[\s*)?\{\s*("|\})')
DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Group:
    """The files of a unit. part: None, "folders" (with the label) or "pairs" (in `languages`)."""

    paths: tuple[Path, ...]
    part: str | None = None
    label: str = ""
    languages: tuple[str, ...] = ()


def groups(files: Mapping[str, Path], patterns: Sequence[str]) -> list[tuple[str, Group]]:
    """(name, files) of each unit, in order."""
    if pairs := _pairs(files, patterns):
        return pairs
    parents = {PurePosixPath(path.absolute().as_posix()).parent.name for path in files.values()}
    texts = all(PurePosixPath(uncompressed_name(name)).suffix in TEXTS for name in files)
    if len(parents) > 1 and texts:
        return [
            (name, Group((path,), "folders", path.absolute().parent.name))
            for name, path in files.items()
        ]
    return [(name, Group((path,))) for name, path in files.items()]


def _pairs(files: Mapping[str, Path], patterns: Sequence[str]) -> list[tuple[str, Group]]:
    """Pairs of files, the languages in the order of the patterns; [] where not all are in pairs."""
    stems: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, path in files.items():
        plain = uncompressed_name(name)
        suffix = PurePosixPath(plain).suffix
        if suffix in (*KINDS, *TEXTS) or not LANGUAGE.fullmatch(suffix):
            return []
        stems[plain.removesuffix(suffix)][suffix[1:]] = path
    sets = {frozenset(found) for found in stems.values()}
    if len(sets) != 1 or len(next(iter(sets))) != 2:
        return []
    plain_patterns = [uncompressed_name(pattern) for pattern in patterns]
    order = [pattern.rpartition(".")[2] for pattern in plain_patterns]
    place = {language: order.index(language) for language in order}
    languages = sorted(next(iter(sets)), key=lambda name: (place.get(name, len(order)), name))
    return [
        (stem, Group(tuple(found[name] for name in languages), "pairs", languages=(*languages,)))
        for stem, found in stems.items()
    ]


@dataclass(frozen=True)
class Opened:
    """The files of a unit: every call reads them from their beginning."""

    group: Group
    source: Any

    @property
    def where(self) -> str:
        return str(self.group.paths[0])

    @property
    def part(self) -> str | None:
        return self.group.part

    @cached_property
    def kind(self) -> str:
        """jsonl, json, csv, tsv, parquet or text."""
        path = self.group.paths[0]
        known = KINDS.get(Path(uncompressed_name(path.name).lower()).suffix)
        if known is not None or self.part is not None:
            return known or "text"
        return "json" if self._looks_like_json() else "text"

    def _looks_like_json(self) -> bool:
        with self._text() as pieces:
            head = next(pieces, "")
        return JSON.match(head) is not None

    @property
    def has_rows(self) -> bool:
        return self.kind != "text" or self.part is not None

    @property
    def has_lines(self) -> bool:
        return self.kind in ("text", "tsv") and self.part != "pairs"

    def rows(self) -> Iterator[Placed]:
        """("file:line", row) of each; for Parquet ("file:row", counted from 0)."""
        if self.part == "folders":
            yield from self._texts()
        elif self.part == "pairs":
            yield from self._pairs()
        elif self.kind == "parquet":
            yield from self._parquet()
        else:
            yield from self._table()

    def lines(self) -> Iterator[Placed]:
        """("file:line", line without its end) of each line, also of the empty ones."""
        with self._text() as pieces:
            most = self.source.max_document_chars
            for number, line in enumerate(lines(pieces, self.where, most), start=1):
                yield f"{self.where}:{number}", line.rstrip("\r\n")

    def names(self) -> dict[str, list[str]]:
        """{column: the names of its numbers}, which Hugging Face's Parquet files say."""
        if self.kind != "parquet":
            return {}
        about = (self._parquet_file().schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        try:
            features = json.loads(about)["info"]["features"]
            return {name: found for name, one in features.items() if (found := _names(one))}
        except (ValueError, LookupError, TypeError, AttributeError):
            return {}

    # ------------------------------------------------------------------------------ by kind

    @contextlib.contextmanager
    def _text(self, path: Path | None = None) -> Iterator[Iterator[str]]:
        path = path or self.group.paths[0]
        with open_file(path) as file:
            yield decode(file, str(path), self.source.encoding)

    def _table(self) -> Iterator[Placed]:
        most = self.source.max_document_chars
        with self._text() as pieces:
            if self.kind == "jsonl":
                yield from jsonl_rows(pieces, self.where, most)
            elif self.kind == "json":
                yield from json_rows(pieces, self.where, most)
            else:
                yield from csv_rows(
                    pieces,
                    self.where,
                    delimiter=self.source.delimiter or self._delimiter(),
                    columns=self.source.header,
                    most=most,
                )

    def _delimiter(self) -> str:
        """The delimiter of which the first line has the most; that of the ending, where equal."""
        with self._text() as pieces:
            head = next(pieces, "").partition("\n")[0]
        usual = "\t" if self.kind == "tsv" else ","
        return max((usual, *DELIMITERS), key=head.count)

    def _texts(self) -> Iterator[Placed]:
        """The one row of a file in the folder of its class."""
        with self._text() as pieces:
            (text,) = split_documents(pieces, None, self.where, self.source.max_document_chars)
        yield self.where, {"text": text, "label": self.group.label}

    def _pairs(self) -> Iterator[Placed]:
        """Line by line, {language: text}."""
        first, second = self.group.paths
        most = self.source.max_document_chars
        with self._text(first) as own, self._text(second) as other:
            sides = lines(own, str(first), most), lines(other, str(second), most)
            number = 0
            while True:
                number += 1
                texts = [next(side, None) for side in sides]
                if texts == [None, None]:
                    return
                if None in texts:
                    short, long = (first, second) if texts[0] is None else (second, first)
                    raise UserError(
                        f"{short}: ends after line {number - 1}, and {long} does not; lines of the "
                        "same number must be translations of each other"
                    )
                clean = [str(text).rstrip("\r\n") for text in texts]
                yield f"{first}:{number}", dict(zip(self.group.languages, clean, strict=True))

    def _parquet(self) -> Iterator[Placed]:
        file, number = self._parquet_file(), 0
        arrow = need("pyarrow", "formats", "Parquet")
        try:
            for batch in file.iter_batches(1024):
                for row in batch.to_pylist():
                    yield f"{self.where}:{number}", row
                    number += 1
        except (OSError, UnicodeDecodeError, arrow.ArrowException) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise UserError(
                f"{self.where}: cannot be read after row {number} ({reason}); replace the file"
            ) from None

    def _parquet_file(self) -> Any:
        parquet = need("pyarrow.parquet", "formats", "a Parquet source")
        try:
            return parquet.ParquetFile(self.group.paths[0])
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise UserError(
                f"{self.where}: not a Parquet file ({reason}); replace the file"
            ) from None


def _names(feature: Any) -> list[str]:
    """The names of a feature's classes: of a number, or of a list of numbers."""
    inner = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
    names = inner.get("names") or []
    return [str(name) for name in (names.values() if isinstance(names, dict) else names)]
