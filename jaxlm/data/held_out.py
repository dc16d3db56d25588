"""The source of files outside of a run's data, read as that data is.

source = measured_source(detect(["new.csv"]), config.data)
config.data.measured(source, tokenizer, Path("cache"), facts)    # all of it as "validation"

own = own_source(config.data)
source = unanswered_source(detect(["new.csv"]), task.asked, own)    # without the answers
source.records(task.asked)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxlm.core.config import UserError, parse, suggest
from jaxlm.core.errors import few
from jaxlm.data.detect import Found, no_rows, source_of
from jaxlm.data.formats.text import Text
from jaxlm.data.mixture import MixtureData
from jaxlm.data.sources.base import Source
from jaxlm.data.sources.files import Files
from jaxlm.data.store.prepared import DataConfig

COLUMNS = ("text_column", "label_column")
LINES = Text(by="line")
RULES = ("label_map", "label_bins")


def measured_source(found: Found, data: DataConfig) -> Source:
    """The source of files to measure; columns and labels are read as in the run's own data where
    the files have these columns. Raises `UserError` where they lack one that the task needs.
    """
    data = own_data(data)
    if isinstance(own := own_source(data), Files):
        return own.replace(files=found.files)
    if not found.num_texts:
        raise no_rows(found.files)
    values = _values(found, own)
    task = getattr(data, "task", None)
    if task is None:  # running text
        for name in ("label_column", *RULES):
            values.pop(name, None)
        return parse(Source, values)
    given = {*found.columns, *(c.removesuffix("_column") for c in COLUMNS if c in values)}
    given |= {"text"} if found.kind == "text" else set()
    if missing := [column for column in task.columns if column not in given]:
        raise UserError(
            f"{found.files[0]}: has no column {few(missing)} to compare with; name a table with "
            f"{few(task.columns)}"
        )
    return parse(Source, values)


def unanswered_source(found: Found, columns: Sequence[str], own: Source | None) -> Source:
    """The source of files with records whose answers are not known, or are not read.

    columns: those that the task asks for. own: the source of the run's data, whose names of columns
    hold for the files as well. Raises `UserError` where the files lack a column.

    Each line of a running text is a record, unless `own` names another format or separator: a file
    has one text of the corpus that a model is trained on, and many to predict for.
    """
    if isinstance(own, Files):
        asked = own.replace(files=found.files, answered=False)
        by_line = found.kind == "text" and own.format is None and asked.is_running_text(columns)
        return asked.replace(format=LINES) if by_line else asked
    if not found.num_texts:
        raise no_rows(found.files)
    values = _values(found, own)
    for name in ("label_column", *RULES):
        values.pop(name, None)
    if found.kind == "text" and "document_separator" not in values:
        encoding = values.get("encoding", "utf-8")
        return Files(files=found.files, format=LINES, encoding=encoding, answered=False)
    if found.kind == "text":
        return parse(Source, values)
    for column in columns:
        name = file_column(own, column)
        name = column if name not in found.columns and column in found.columns else name
        if name not in found.columns:
            raise UserError(f"{found.files[0]}: no column {name!r}; {suggest(name, found.columns)}")
        if column == "text":
            values["text_column"] = name
    return parse(Source, values)


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


def _values(found: Found, own: Source | None) -> dict[str, Any]:
    """The source's values: those of the run's own source where the files have its columns."""
    values = source_of(found)
    if found.kind == "text":
        same = ["document_separator"]
    else:
        same = [name for name in COLUMNS if getattr(own, name, None) in found.columns]
        same += RULES if "label_column" in same else []
    return values | {name: getattr(own, name) for name in same if getattr(own, name, None)}
