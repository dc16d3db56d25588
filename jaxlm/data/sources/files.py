"""Files in the formats that users have, recognised by their columns.

    data:
      source: {type: files, files: chat.jsonl}

gives records with the columns that the task reads (`jaxlm.data.formats.base` lists them): of JSON,
JSON lines, CSV, TSV, Parquet and texts, plain or compressed. `format` names the format where it is
not recognised, `columns` says what the file calls the format's columns.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxlm.core.config import UserError, field, type_name
from jaxlm.core.errors import MissingColumn, few, suggest
from jaxlm.data.formats.base import Format, Placed, Sample, own_setting
from jaxlm.data.formats.recognise import Recognised, all_formats, format_called, recognise
from jaxlm.data.formats.shapes import Shape
from jaxlm.data.formats.text import Text
from jaxlm.data.reading.files import match_files
from jaxlm.data.reading.opened import LINES, Opened, groups
from jaxlm.data.reading.rows import check_columns, validate_delimiter
from jaxlm.data.reading.text import check_characters, validate_text_options
from jaxlm.data.sources.base import Document, FileSource, Record, Unit

SAMPLED = 200  # rows or lines by which a format is recognised


@dataclass(frozen=True, kw_only=True)
class Files(FileSource):
    """Files of any format, recognised by their columns; `jaxlm parts formats` lists the formats."""

    reading_version = 1

    # Whether they are a run's `data.source`, whose settings an error names.
    own_settings: ClassVar[bool] = True

    format: str | Format | None = field(
        None, "the format of the files, or its name; null: recognised by the columns"
    )
    columns: dict[str, str] = field(
        dict, "what the files call a column: {the format's name for it: the files' name}"
    )
    header: tuple[str, ...] = field((), "names of the columns of a CSV without a header line")
    delimiter: str | None = field(None, "between the cells of a CSV; null: found in its first line")
    encoding: str = field("utf-8", "the encoding of the files; every byte must be valid in it")
    bad_rows: Literal["error", "skip"] = field(
        "error", "a row whose values are wrong is an error, or is left out and counted"
    )
    answered: bool = field(True, "whether the records have answers; false: those to predict for")

    def validate(self) -> None:
        validate_text_options(None, self.encoding)
        check_columns(self.header, "header")
        validate_delimiter(self.delimiter)
        if isinstance(self.format, str):
            try:
                format_called(self.format)
            except UserError as error:
                raise UserError(f"format: {error}") from None

    def units(self) -> list[Unit]:
        found = groups(match_files(self.files), self.files)
        return [Unit(name, origin, self) for name, origin in found]

    def recognised(self, columns: Sequence[str]) -> str:
        """One line: "x.jsonl: alpaca (instruction, output)"; raises as `recognise`."""
        found = Counter(
            f"{one.described(self.columns)}{self._unread(one, columns)}"
            for one in (self._recognise(self._sample(unit), columns) for unit in self.units())
        )
        if len(found) == 1:
            return f"{', '.join(self.files)}: {next(iter(found))}"
        listed = few(
            f"{number} {'is' if number == 1 else 'are'} {name}" for name, number in found.items()
        )
        return f"{', '.join(self.files)}: {listed}"

    def tasks(self) -> str:
        """The tasks that the files' records are for, where none is asked for."""
        return ", ".join(sorted({shape.task for shape in self.shapes()}))

    def shapes(self) -> list[Shape]:
        """The shape of each unit's records, where no columns are asked for."""
        return [self._recognise(self._sample(unit), ()).shape for unit in self.units()]

    def all_columns(self) -> list[str]:
        """The columns of the files' first rows, under the format's names."""
        samples = map(self._sample, self.units())
        return [*dict.fromkeys(name for sample in samples for name in sample.columns)]

    def is_running_text(self, columns: Sequence[str]) -> bool:
        """Whether the files are texts without a form of their own, which give these columns."""
        try:
            found = [self._recognise(self._sample(unit), columns).format for unit in self.units()]
        except UserError:
            return False
        return all(isinstance(one, Text) for one in found)

    def fingerprint(self) -> str:
        """As `Source.fingerprint`, and over the versions of the formats that may read the files."""
        given = self.format
        if given is None:
            formats = all_formats()
        else:
            form = format_called(given) if isinstance(given, str) else given
            formats = {type_name(type(form)) or type(form).__name__: form}
        versions = {name: form.version for name, form in formats.items()}
        identity = json.dumps([super().fingerprint(), versions], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()

    def read(self, unit: Unit, counts: Counter[str]) -> Iterator[Document]:
        for name, record in self.whole(unit, ("text",), counts):
            label = record.get("label")
            yield Document(record["text"], name, label if isinstance(label, str) else None)

    def read_records(
        self, unit: Unit, columns: Sequence[str], counts: Counter[str]
    ) -> Iterator[tuple[str, Record]]:
        for name, record in self.whole(unit, columns, counts):
            yield name, {column: record[column] for column in columns}

    def whole(
        self, unit: Unit, columns: Sequence[str], counts: Counter[str]
    ) -> Iterator[tuple[str, Record]]:
        """(name, record) of one unit; a record has all that its format gives and its row has, and
        `columns` among these.
        """
        sample = self._sample(unit)
        found = self._recognise(sample, columns)
        optional = dict.fromkeys(found.shape.every)

        def failed(error: UserError) -> None:
            if self.bad_rows == "skip":
                counts["bad rows"] += 1
            elif self.answered and self.own_settings:
                raise UserError(f"{error}, or leave such rows out by data.source.bad_rows=skip")
            else:  # every record to predict for has its line
                raise error

        opened = Opened(unit.origin, self)
        items = opened.lines() if found.format.reads == LINES else self._renamed(opened.rows())
        for here, record in found.format.records(items, sample, failed):
            try:
                made = [{**optional, **one} for one in found.convert(record)]
                for one in made:
                    check_columns_of(one, columns)
            except UserError as error:
                failed(UserError(f"{here}: {error}"))
                continue
            name = f"{unit.name}{here.removeprefix(opened.where)}"
            yield from ((name, one) for one in made)

    def _recognise(self, sample: Sample, columns: Sequence[str]) -> Recognised:
        given = self.format
        return recognise(sample, columns, format_called(given) if isinstance(given, str) else given)

    def _sample(self, unit: Unit) -> Sample:
        """The beginning of a unit's file."""
        opened = Opened(unit.origin, self)
        rows: list[tuple[str, Mapping[str, Any]]] = []
        problem = None
        if opened.has_rows:
            try:
                rows = list(itertools.islice(self._renamed(opened.rows()), SAMPLED))
            except UserError as error:
                if not opened.has_lines:
                    raise
                problem = error
        lines = itertools.islice(opened.lines(), SAMPLED) if opened.has_lines else ()
        in_folders = opened.part == "folders"  # whose rows are made, not read
        return Sample(
            name=opened.where,
            rows=tuple(rows),
            lines=tuple(line for _, line in lines),
            columns=()
            if in_folders
            else tuple(dict.fromkeys(str(n) for _, row in rows for n in row)),
            names=self._renamed_columns(opened.names()),
            part=opened.part,
            problem=problem,
            answered=self.answered,
            setting=self.setting,
            called=self.columns,
        )

    def setting(self, name: str, value: str | None = None) -> str:
        """The setting that an error advises: "data.source.format=alpaca"."""
        if self.own_settings:
            return own_setting(name, value)
        files, value = ", ".join(self.files), value or name.upper()
        return f"data.source={{type: files, files: {files}, {name}: {value}}}"

    def _unread(self, found: Recognised, columns: Sequence[str]) -> str:
        """The part of a format's line about an optional column that the task does not read."""
        needed = {*found.shape.optional} - {*found.shape.unneeded} if columns else set()
        unread = sorted((needed & {*found.fit.columns, *found.format.written}) - {*columns})
        if not unread:
            return ""
        is_setting = self.own_settings and unread[0] in found.fit.columns
        advice = f" (data.task.{unread[0]}={unread[0]} reads it)" if is_setting else ""
        return f", without {few(unread)}, which the task does not read{advice}"

    def _renamed(self, rows: Iterable[Placed]) -> Iterator[Placed]:
        """Rows with the format's names of their columns."""
        if not self.columns:
            yield from rows
            return
        for here, row in rows:
            yield here, self._renamed_columns(row)

    def _renamed_columns(self, row: Mapping[str, Any]) -> dict[str, Any]:
        known = {name: row[own] for name, own in self.columns.items() if own in row}
        rest = {name: value for name, value in row.items() if name not in self._own}
        return {**rest, **known}

    @property
    def _own(self) -> set[str]:
        return {*self.columns.values()}


def check_columns_of(record: Record, columns: Sequence[str]) -> None:
    """Raises `UserError` for a column that is missing, and for half of a surrogate pair in one."""
    for column in columns:
        if column not in record:
            raise MissingColumn.of(
                f"no column {column!r}; {suggest(column, map(str, record))}", column
            )
        for text in _texts(record[column]):
            check_characters(text, f"column {column!r}", "holds ")


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
