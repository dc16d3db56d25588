"""The source of files outside of a run's data, read as that data is.

source = measured_source(detect(["new.csv"]), config.data)
config.data.measured(source, tokenizer, Path("cache"), facts)    # all of it as "validation"

own, names = own_source(config.data), task.column_names
source = unanswered_source(detect(["new.csv"]), task.asked, own, names)    # without the answers
source.records(task.asked)
found_in(source, task.asked)                                     # "new.csv: csv (review), utf-8"

A table with the columns of the run is read as the run's own tables are. The format of any other
file is recognised (`jaxlm.data.sources.files`), whatever the run's source is.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jaxlm.core.config import UserError, field, parse, suggest, type_name
from jaxlm.core.errors import MissingColumn, few
from jaxlm.data.detect import Found, kind_of, no_rows, source_of
from jaxlm.data.formats.text import Text
from jaxlm.data.mixture import MixtureData
from jaxlm.data.sources.base import Record, Source, Unit
from jaxlm.data.sources.base_rows import RowFiles
from jaxlm.data.sources.csv import Csv
from jaxlm.data.sources.files import Files
from jaxlm.data.store.prepared import DataConfig

COLUMNS = ("text_column", "label_column")
LINES = Text(by="line")
RULES = ("label_map", "label_bins")


@dataclass(frozen=True, kw_only=True)
class Foreign(Files):
    """Files of any format, whose records have the columns of a run's task under its own names."""

    own_settings: ClassVar[bool] = False

    names: dict[str, str] = field(
        dict, "what the task calls a column: {the format's name for it: the task's}"
    )

    def recognised(self, columns: Sequence[str]) -> str:
        return super().recognised(self._usual(columns))

    def is_running_text(self, columns: Sequence[str]) -> bool:
        return super().is_running_text(self._usual(columns))

    def read_records(
        self, unit: Unit, columns: Sequence[str], counts: Counter[str]
    ) -> Iterator[tuple[str, Record]]:
        usual = self._usual(columns)
        for name, record in super().read_records(unit, usual, counts):
            yield name, {own: record[one] for own, one in zip(columns, usual, strict=True)}

    def _usual(self, columns: Sequence[str]) -> list[str]:
        usual = {own: name for name, own in self.names.items()}
        return [usual.get(column, column) for column in columns]


def measured_source(found: Found, data: DataConfig) -> Source:
    """The source of files to measure; columns and labels are read as in the run's own data where
    the files have these columns. Raises `UserError` where they lack one that the task needs.
    """
    data = own_data(data)
    own, task = own_source(data), getattr(data, "task", None)
    if task is None:
        return _running_text(found, own)
    columns, names = task.columns, task.column_names
    if isinstance(own, Files):
        return _as_own(found, own, columns, names, answered=True)
    if (source := _plain(found, own, columns, names)) is not None:
        return source
    foreign = _foreign(found, own, names, answered=True)
    if found.kind == "text" and {*columns} <= {"text"} and foreign.is_running_text(columns):
        return parse(Source, _values(found, own))
    try:
        foreign.recognised(columns)
    except UserError as error:
        guessed = _values(found, own)
        given = {*found.columns, *(c.removesuffix("_column") for c in COLUMNS if c in guessed)}
        if found.kind != "text" and found.num_texts and given >= {*columns}:
            return parse(Source, guessed)
        raise _refused(found, own, columns, error) from None
    return foreign


def _running_text(found: Found, own: Source | None) -> Source:
    """The source of texts that have no task."""
    if isinstance(own, Files):
        return own.replace(files=found.files, encoding=found.encoding)
    if not found.num_texts:
        raise no_rows(found.files)
    if found.kind == "text" and isinstance(own, RowFiles):
        foreign = _foreign(found, own, {}, answered=True)
        if foreign.all_columns():  # a table, such as a list in JSON
            return foreign
    values = _values(found, own)
    for name in ("label_column", *RULES):
        values.pop(name, None)
    return parse(Source, values)


def unanswered_source(
    found: Found,
    columns: Sequence[str],
    own: Source | None,
    names: Mapping[str, str] | None = None,
) -> Source:
    """The source of files with records whose answers are not known, or are not read.

    columns: those that the task asks for. own: the source of the run's data, whose names of columns
    hold for the files as well. names: those of the task (`Task.column_names`). Raises `UserError`
    where the files lack a column.

    Each line of a running text is a record, unless `own` names another format or separator: a file
    has one text of the corpus that a model is trained on, and many to predict for.
    """
    names = names or {}
    if isinstance(own, Files):
        asked = _as_own(found, own, columns, names, answered=False)
        is_given = own.format is not None
    elif (source := _plain(found, own, columns, names)) is not None:
        return source
    else:
        asked, is_given = _foreign(found, own, names, answered=False), False
    if found.kind == "text" and not is_given and asked.is_running_text(columns):
        if getattr(own, "document_separator", None) is not None:
            return parse(Source, _values(found, own))
        return asked.replace(format=LINES)
    if not isinstance(own, Files):
        try:
            asked.recognised(columns)
        except UserError as error:
            raise _refused(found, own, columns, error) from None
    return asked


def found_in(source: Source, columns: Sequence[str]) -> str:
    """One line about the format in which files are read: "new.csv: csv (review), gb18030"."""
    line = source.recognised(columns)
    if not line:
        names = [_column_of(source, column) for column in columns]
        shown = f" ({', '.join(names)})" if isinstance(source, RowFiles) else ""
        shown += " without a header line" if _own_header(source) else ""
        line = f"{', '.join(getattr(source, 'files', ()))}: {type_name(type(source))}{shown}"
    encoding = getattr(source, "encoding", None)
    return line if encoding is None or _is_parquet(source) else f"{line}, {encoding}"


def _is_parquet(source: Source) -> bool:
    return all(kind_of(Path(name)) == "parquet" for name in getattr(source, "files", ()))


def columns_of(found: Found) -> Sequence[str]:
    """The columns of files, also of those that are a table by what is in them (.json)."""
    if found.kind != "text":
        return found.columns
    return Files(files=found.files, encoding=found.encoding).all_columns()


def own_settings(own: Source | None) -> dict[str, Any]:
    """How other files are probably written, as a run's own are: arguments of `detect`."""
    return {"encoding": getattr(own, "encoding", None), "header": _own_header(own)}


def _own_header(own: Source | None) -> tuple[str, ...]:
    """The names that a run gives to the columns of its CSV, which has no header line."""
    return own.columns if isinstance(own, Csv) else ()


def has_a_record_a_line(source: Source) -> bool:
    return isinstance(source, Files) and source.format == LINES


def file_column(own: Source | None, column: str) -> str:
    """A task's column as the run's own files name it: `text` is the source's `text_column`."""
    return getattr(own, "text_column", column) if column == "text" else column


def own_source(data: DataConfig | None) -> Source | None:
    """The source of a run's data; None where it has none, or has several."""
    return None if data is None else getattr(own_data(data), "source", None)


def own_data(data: DataConfig) -> DataConfig:
    """The data whose columns a run knows: of a mixture, that of its first part."""
    return next(iter(data.parts.values())).data if isinstance(data, MixtureData) else data


# ------------------------------------------------------------------------- kinds of sources


def _plain(
    found: Found, own: Source | None, columns: Sequence[str], names: Mapping[str, str]
) -> Source | None:
    """A table that has all columns, under the names of the run's files or of the task; None of
    other files.
    """
    if found.kind == "text" or not found.num_texts:
        return None
    values = source_of(found)
    for name in COLUMNS:
        values.pop(name, None)
    own_label, label = getattr(own, "label_column", None), names.get("label", "label")
    for column in columns:
        name = _column_of(own, column)
        name = name if name in found.columns else column
        if name not in found.columns:
            return None
        if column == "text":
            values["text_column"] = name
        elif name == own_label:
            rules = {rule: getattr(own, rule) for rule in RULES if getattr(own, rule, None)}
            values |= {"label_column": name, **rules}
        elif column == label and (own_label is not None or name == found.label_column):
            values["label_column"] = name
    return parse(Source, values)


def _column_of(own: Source | None, column: str) -> str:
    """A task's column as the run's own files name it."""
    if column == "label":
        return getattr(own, "label_column", None) or column
    return file_column(own, column)


def _as_own(
    found: Found, own: Files, columns: Sequence[str], names: Mapping[str, str], *, answered: bool
) -> Files:
    """Files that are read as the run's own, which are of any format."""
    source = own.replace(files=found.files, encoding=found.encoding, answered=answered)
    if all(name == usual for usual, name in names.items()):
        return source
    try:
        source.recognised(columns)
    except UserError:
        values = {one.name: getattr(source, one.name) for one in dataclasses.fields(source)}
        foreign = Foreign(**values, names=dict(names))
        try:
            foreign.recognised(columns)
        except UserError:
            return source
        return foreign
    return source


def _foreign(
    found: Found, own: Source | None, names: Mapping[str, str], *, answered: bool
) -> Foreign:
    """Files of any format, beside a run whose source is of one kind."""
    most = getattr(own, "max_document_chars", None)
    source = Foreign(
        files=found.files,
        encoding=found.encoding,
        answered=answered,
        names={usual: name for usual, name in names.items() if usual != name},
        **({} if most is None else {"max_document_chars": most}),
    )
    known = source.all_columns()
    renamed = {
        usual: column
        for usual in {**dict.fromkeys(("text", "label")), **names}
        if (column := _column_of(own, names.get(usual, usual))) in known and column != usual
    }
    return source.replace(columns=renamed)


def _refused(
    found: Found, own: Source | None, columns: Sequence[str], error: UserError
) -> UserError:
    """The error of files in which a column is missing: with a name that is near, or a format."""
    if found.kind != "text" and not found.num_texts:
        return no_rows(found.files)
    wanted = {column: _column_of(own, column) for column in columns}
    known = {*found.columns}
    missing = [name for column, name in wanted.items() if not {column, name} & known]
    for name in missing if found.columns else ():
        if (fix := suggest(name, found.columns)).startswith("did you mean"):
            return MissingColumn.of(f"{found.files[0]}: no column {name!r}; {fix}", name)
    if len(missing) < len(columns):
        return MissingColumn.of(
            f"{found.files[0]}: no column {few(missing)} among {few(found.columns)}; name a table "
            f"with {few(wanted.values())}",
            *missing,
        )
    return error


def _values(found: Found, own: Source | None) -> dict[str, Any]:
    """The source's values: those of the run's own source where the files have its columns."""
    values = source_of(found)
    if found.kind == "text":
        same = ["document_separator"]
    else:
        same = [name for name in COLUMNS if getattr(own, name, None) in found.columns]
        same += RULES if "label_column" in same else []
    return values | {name: getattr(own, name) for name in same if getattr(own, name, None)}
