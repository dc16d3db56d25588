"""The base of formats, which recognise a file by its columns and make records of a task's columns.

    data:
      source: {type: files, files: chat.jsonl}                    # the format is recognised
      source: {type: files, files: chat.jsonl, format: alpaca}    # or named

A format gives records with the columns of one row of this table; a task reads them by these names.

| task | columns | may have |
|---|---|---|
| text | text | |
| classification | text, label (a name, a number, a list of names) | text_b (of a pair) |
| question_answering | id, context, question, answers | title |
| translation | source, target | |
| summarisation | source, target | |
| tagging | tokens, tags (two lists of texts of one length) | |
| chat | messages | tools |
| prompt_completion | prompt, completion | |
| preference | prompt, chosen, rejected | |
| kto | prompt, completion, label (true: desirable) | |
| any | the file's own | |

Their values are plain JSON:

    answers     {"text": ["Paris"], "answer_start": [17]}, counted in characters; both are empty
                where the context has no answer
    tags        BIO where they are spans (B-PER, I-PER, O), whatever the file has; else as they are
    messages    [{"role": "user", "content": "Hello"}, ...]; the roles are system, user, assistant
                and tool. `content` is a text, or a list of parts [{"type": "text", "text": "Hi",
                "weight": 0}]. A message and a part may have a `weight` >= 0 of their loss, and
                `train`, true or false. An assistant's message may have "tool_calls": [{"type":
                "function", "function": {"name": "f", "arguments": {...}}}], beside an empty content
    tools       [{"type": "function", "function": {"name": "f", "parameters": {...}}}, ...]
    prompt, completion, chosen, rejected    texts; or, all of a record, lists of messages, where
                the prompt is what the others continue

The file's other columns can be read as well, by their own names. A new format is one file in this
folder, or a class elsewhere (`jaxlm.core.registry`); as an example, `jaxlm/data/formats/alpaca.py`.
For a task that the table lacks, it has a `shape` of its own (`jaxlm.data.formats.shapes`). Nothing
here opens a file: `jaxlm.data.sources.files` does.
"""  # fmt: skip

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from jaxlm.core.config import Config, Kind, UserError, type_name
from jaxlm.data.formats.shapes import Record, Shape, shape_called

Row = Mapping[str, Any]
Placed = tuple[str, Any]  # where it is ("file:line"), and a row, a line or a record
Failed = Callable[[UserError], None]  # gets the error of a row; raises it, or leaves the row out


class Setting(Protocol):
    def __call__(self, name: str, value: str | None = None) -> str: ...


def own_setting(name: str, value: str | None = None) -> str:
    """The setting of a source of files that an error advises: "data.source.format=alpaca"."""
    return f"data.source.{name}" if value is None else f"data.source.{name}={value}"


def refuse(error: UserError) -> None:
    raise error


@dataclass(frozen=True)
class Sample:
    """The beginning of a file, by which its format is recognised.

    rows: of a table or of JSON objects, with the place of each. lines: of a file of text, without
    their ends. columns: all that the rows have. names: {column: names of its numbers}, where the
    file says them. part: what the file is one of several of: "folders" (one folder for each class)
    or "pairs" (one file for each language). problem: why a file that has lines has no rows.
    setting: what an error advises to set for an option of the source. called: {column: what the
    file calls it}, where the user said so.
    """

    name: str
    rows: tuple[tuple[str, Row], ...] = ()
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    names: Mapping[str, Sequence[str]] | None = None
    part: str | None = None
    problem: UserError | None = None
    answered: bool = True
    setting: Setting = own_setting
    called: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """The fit of a sample: the columns that the format reads of it, and the missing ones."""

    columns: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    note: str = ""  # beside the columns, in the line that names the format: "en -> de"

    def __bool__(self) -> bool:
        return not self.missing


@dataclass(frozen=True, kw_only=True)
class Format(Config):
    """A shape of files. A kind of format derives from `RowFormat` or `LineFormat`."""

    kind: ClassVar = Kind("formats", "format", folder="jaxlm.data.formats")

    task: ClassVar[str]  # the row of the table above whose columns its records have; see `shape`
    reads: ClassVar[str]  # "rows" or "lines"
    # Raise it when the same file comes to give other records.
    version: ClassVar[int] = 1
    # Whether any rows fit: then it is taken only where it is named, or no other fits.
    as_it_is: ClassVar[bool] = False
    # The optional columns of its task that `write` keeps.
    keeps: ClassVar[tuple[str, ...]] = ()
    # Whether it is several files: `write` gives (what follows --out in a file's name, text).
    separate: ClassVar[bool] = False
    # Whether it reads a list or an object from its JSON in a table's cell.
    cells: ClassVar[bool] = False
    # What is beside the rows in a .json file that is one object; None: such a file is a list.
    head: ClassVar[Mapping[str, Any] | None] = None

    @property
    def shape(self) -> Shape:
        """The columns of its records. A format for another task than those of the table has
        `shape = Shape("ranking", ("query", "documents"))` in place of `task`. Raises `UserError`.
        """
        return shape_called(self.task)

    def fit(self, sample: Sample) -> Fit:
        """The fit of a file with this beginning. Raises nothing, whatever the values are."""
        raise NotImplementedError

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        """(place, record) in order; `items` are the file's rows or lines, with their places.

        failed: gets a `UserError` with the place for each row whose values are not what they must
        be. The records are those of the task, and a row's own columns beside them.
        """
        raise NotImplementedError

    @property
    def written(self) -> tuple[str, ...]:
        """The columns of a record that `write` needs."""
        return self.shape.columns

    def write(self, records: Iterable[Record]) -> Iterator[Any]:
        """The rows, or the lines without their ends, that `records` reads as these records; of
        separate files their pieces.
        """
        raise UserError(f"nothing can be written as {type_name(type(self))}; choose another --to")


@dataclass(frozen=True, kw_only=True)
class RowFormat(Format, abstract=True):
    """Rows with named columns: JSON objects, or a table's."""

    reads = "rows"

    # The columns that a file must have, each with its other names: "document|article|dialogue".
    needs: ClassVar[tuple[str, ...]]
    # Those of `needs` that a file without answers lacks.
    answers: ClassVar[tuple[str, ...]] = ()
    # Columns that are read where they are there.
    takes: ClassVar[tuple[str, ...]] = ()

    def fit(self, sample: Sample) -> Fit:
        found, missing = [], []
        for need in self.needs:
            name = next((n for n in need.split("|") if n in sample.columns), None)
            if name is not None:
                found.append(name)
            elif sample.answered or need not in self.answers:
                missing.append(need.replace("|", " or "))
        if not missing:
            missing += self.wrong(dict(zip(self.needs, found, strict=False)), sample)
        takes = [name for name in self.takes if name in sample.columns]
        return Fit((*found, *takes), tuple(missing))

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        """The values that a sample with all columns lacks: ["a label that is true or false"].

        names: {one of `needs`: the column that the sample has for it}.
        """
        return []

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        for here, row in items:
            try:
                found = self.expand(row, sample)
            except UserError as error:
                failed(UserError(f"{here}: {error}"))
                continue
            for record in found:
                yield here, {**row, **record}

    def expand(self, row: Row, sample: Sample) -> list[Record]:
        """The records of one row, where that may be several."""
        return [self.record(row, sample)]

    def record(self, row: Row, sample: Sample) -> Record:
        """The record of one row. Raises `UserError` without the place, which is added."""
        raise NotImplementedError

    def write(self, records: Iterable[Record]) -> Iterator[Any]:
        return map(self.row, records)

    def row(self, record: Record) -> dict[str, Any]:
        """The row that `record` reads as this record."""
        raise UserError(f"nothing can be written as {type_name(type(self))}; choose another --to")


@dataclass(frozen=True, kw_only=True)
class LineFormat(Format, abstract=True):
    """Lines of text."""

    reads = "lines"


def column(row: Row, *names: str) -> Any:
    """The value of the first of these columns that the row has; None where it has none of them."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def text_of(row: Row, *names: str, blank: bool = False) -> str:
    """A column of text. Raises `UserError` where it is missing, or no text, or blank unless that is
    allowed.
    """
    value = column(row, *names)
    if value is None:
        raise UserError(f"no column {' or '.join(map(repr, names))}; add it or remove the row")
    name = next(n for n in names if row.get(n) is not None)
    if not isinstance(value, str):
        raise UserError(f"column {name!r} holds a {type(value).__name__}, not text; correct it")
    if not blank and not value.strip():
        raise UserError(f"column {name!r} is empty; fill it in or remove the row")
    return value
