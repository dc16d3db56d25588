"""The source of files outside of a run's data, read as that data is.

source = measured_source(detect(["new.csv"]), config.data)
config.data.measured(source, tokenizer, Path("cache"), facts)    # all of it as "validation"

source = unanswered_source(detect(["new.csv"]), config.data)     # without the answers
source.records(config.data.task.asked)
"""

from __future__ import annotations

from typing import Any

from jaxlm.core.config import UserError, parse, suggest
from jaxlm.core.errors import few
from jaxlm.data.detect import Found, source_of
from jaxlm.data.mixture import MixtureData
from jaxlm.data.sources.base import Source
from jaxlm.data.store.prepared import DataConfig

COLUMNS = ("text_column", "label_column")
RULES = ("label_map", "label_bins")


def measured_source(found: Found, data: DataConfig) -> Source:
    """The source of files to measure; columns and labels are read as in the run's own data where
    the files have these columns. Raises `UserError` where they lack one that the task needs.
    """
    data = own_data(data)
    values = _values(found, data)
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


def unanswered_source(found: Found, data: DataConfig) -> Source:
    """The source of files with records whose answers are not known, or are not read.

    `data` has a task. Raises `UserError` where the files lack a column that the task needs.
    """
    data = own_data(data)
    values = _values(found, data)
    for name in ("label_column", *RULES):
        values.pop(name, None)
    if found.kind == "text":
        return parse(Source, values)
    for column in data.task.asked:  # type: ignore[attr-defined]
        name = file_column(data, column)
        name = column if name not in found.columns and column in found.columns else name
        if name not in found.columns:
            raise UserError(f"{found.files[0]}: no column {name!r}; {suggest(name, found.columns)}")
        if column == "text":
            values["text_column"] = name
    return parse(Source, values)


def file_column(data: DataConfig, column: str) -> str:
    """A task's column as the run's own files name it: `text` is the source's `text_column`."""
    source = getattr(own_data(data), "source", None)
    return getattr(source, "text_column", column) if column == "text" else column


def own_data(data: DataConfig) -> DataConfig:
    """The data whose columns a run knows: of a mixture, that of its first part."""
    return next(iter(data.parts.values())).data if isinstance(data, MixtureData) else data


def _values(found: Found, data: DataConfig) -> dict[str, Any]:
    """The source's values: those of the run's own source where the files have its columns."""
    own, values = getattr(data, "source", None), source_of(found)
    if found.kind == "text":
        same = ["document_separator"]
    else:
        same = [name for name in COLUMNS if getattr(own, name, None) in found.columns]
        same += RULES if "label_column" in same else []
    return values | {name: getattr(own, name) for name in same if getattr(own, name, None)}
