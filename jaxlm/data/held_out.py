"""The source of files that are only measured, read as a run's own data is.

source = measured_source(detect(["new.csv"]), config.data)
config.data.measured(source, tokenizer, Path("cache"), facts)    # all of it as "validation"
"""

from __future__ import annotations

from jaxlm.core.config import UserError, parse
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
    if isinstance(data, MixtureData):
        data = next(iter(data.parts.values())).data
    own, values = getattr(data, "source", None), source_of(found)
    if found.kind == "text":
        same = ["document_separator"]
    else:
        same = [name for name in COLUMNS if getattr(own, name, None) in found.columns]
        same += RULES if "label_column" in same else []
    values |= {name: getattr(own, name) for name in same if getattr(own, name, None)}
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
