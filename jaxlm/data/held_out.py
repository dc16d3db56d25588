"""A dataset that is only measured: its validation split is all of a source of its own.

    prepared = held_out(config.data, source, tokenizer, Path("cache"))
    prepared.rows("validation", batch_size=8, seed=0)

The texts become rows as the config's own do, and no training text is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError, parse
from jaxlm.core.types import Tokenizer
from jaxlm.data.detect import Found, source_of
from jaxlm.data.examples import ExampleData, Examples, ExampleSplit, class_ids
from jaxlm.data.mixture import MixtureData
from jaxlm.data.rows.lm_split import language_splits
from jaxlm.data.sources.base import Source
from jaxlm.data.store.prepared import DataConfig, Prepared, Report
from jaxlm.data.store.tokenise import Options, prepare_store
from jaxlm.data.text import TextData

LIKE = ("text_column", "label_column", "label_map", "label_bins", "document_separator")


def measured_source(found: Found, data: DataConfig) -> Source:
    """The source of files to measure; columns and labels are read as in the run's own data where
    the files have these columns.
    """
    values = source_of(found)
    own = getattr(data, "source", None)
    same = {name: getattr(own, name, None) for name in LIKE}
    if found.kind == "text":
        same = {name: same[name] for name in ("document_separator",)}
    else:
        same.pop("document_separator")
        if same["label_column"] not in found.columns:
            same = {name: same[name] for name in ("text_column",)}
        if same["text_column"] not in found.columns:
            same.pop("text_column")
    values |= {name: value for name, value in same.items() if value}
    if not isinstance(data, ExampleData):
        values.pop("label_column", None)
        values.pop("label_map", None)
        values.pop("label_bins", None)
    elif "label_column" not in values:
        raise UserError(
            f"{found.files[0]}: has no column of labels to compare with; name a table with a text "
            "and a label"
        )
    return parse(Source, values)


def held_out(
    data: DataConfig,
    source: Source,
    tokenizer: Tokenizer,
    cache_dir: Path,
    *,
    classes: tuple[str, ...] = (),
    report: Report = print,
) -> Prepared:
    """The source's documents as rows of the kind that `data` makes."""
    if isinstance(data, MixtureData):
        data = next(iter(data.parts.values())).data
    labelled = isinstance(data, ExampleData)
    marks = {name: getattr(data, name, True) for name in ("add_bos", "add_eos")}
    options = Options(**marks, labelled=labelled)
    sources: Any = {"validation": source}
    store = prepare_store(sources, tokenizer, options, cache_dir, workers=0, report=report)
    documents = store.documents()
    counts = store.counts(documents.index)
    if isinstance(data, ExampleData):
        ids = class_ids(store, documents, classes, "validation")
        eos_id = tokenizer.eos_id if data.add_eos else None
        rows = Examples(documents, ids, data.seq_len, tokenizer.pad_id, eos_id)
        split = ExampleSplit(examples=rows, shuffle=False, counts=counts)
        return Prepared(tokenizer, {"validation": split}, {}, data.seq_len, classes, data.row_kind)
    like: Any = data  # running text, or its tokens
    splits = language_splits(
        {"validation": documents},
        {"validation": counts},
        seq_len=like.seq_len,
        order=like.order,
        packing=like.packing,
        pad_id=tokenizer.pad_id,
    )
    consecutive = isinstance(data, TextData) and data.consecutive
    return Prepared(tokenizer, splits, {}, like.seq_len, consecutive=consecutive)
