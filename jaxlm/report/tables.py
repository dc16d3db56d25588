"""The plain values of a config, an environment or a manifest as HTML tables.

    fields_table(flatten({"a": {"b": 1}}))     # one row a leaf: a.b  1
    tree({"train": {"tokens": 5}, "validation": {"tokens": 2}})    # a row each, a column for tokens

Both return markup. Long values and long tables are cut, and say so.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxlm.report.html import fill, render

if TYPE_CHECKING:
    from markupsafe import Markup

MAX_TEXT = 600
MAX_ROWS = 200


def show(value: Any) -> str:
    """A plain value for people: true, null, 12,000, a, b, c."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return _cut(", ".join(show(v) for v in value))
    if isinstance(value, Mapping):
        return _cut(json.dumps(value, ensure_ascii=False, default=str))
    return _cut(str(value))


def clock(seconds: float | None) -> str | None:
    """Unix seconds as local date and time."""
    if seconds is None:
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def flatten(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted path, leaf) of nested mappings, and of lists that hold mappings."""
    items: Iterable[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, list) and any(isinstance(v, Mapping) for v in value):
        items = enumerate(value)
    if items is None:
        yield path, value
        return
    for key, item in items:
        yield from flatten(item, f"{path}.{key}" if path else str(key))


def fields_table(
    fields: Iterable[tuple[str, Any]], sources: Mapping[str, str] | None = None, prefix: str = ""
) -> Markup:
    """A row for each (dotted path, value), with its source where `sources` is given.

    `prefix` + path is the key in `sources`. An entry of a list has the source of the list.
    """
    rows = [
        (path, show(value), _source(f"{prefix}{path}", sources) if sources else None)
        for path, value in fields
    ]
    return _limited("fields.html", rows) if rows else fill("")


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    css: str = "",
    *,
    right: Sequence[str] = (),
) -> Markup:
    """A table with a header row. Numbers are aligned right, and columns that `right` names."""
    rows = list(rows)
    columns = [
        (
            show(name),
            bool(rows)
            and (name in right or all(isinstance(row[i], int | float | None) for row in rows)),
        )
        for i, name in enumerate(head)
    ]
    texts = [["" if value is None else show(value) for value in row] for row in rows]
    return _limited("table.html", texts, head=columns, css=css)


def tree(value: Mapping[str, Any]) -> Markup:
    """A nested mapping: leaves as rows, mappings with common keys as one table."""
    leaves = [(k, v) for k, v in value.items() if _records(v) is None]
    plain = [pair for key, item in leaves for pair in flatten(item, str(key))]
    tables = []
    for key, item in value.items():
        records = _records(item)
        if records is not None:
            columns = list(dict.fromkeys(c for _, record in records for c in record))
            names = isinstance(item, Mapping)
            head = [""] * names + columns
            body = [[n] * names + [record.get(c) for c in columns] for n, record in records]
            tables.append((key, table(head, body)))
    source = "{{ plain }}{% for key, t in tables %}<h3>{{ key }}</h3>{{ t }}{% endfor %}"
    return fill(source, plain=fields_table(plain), tables=tables)


def _records(value: Any) -> list[tuple[str, Mapping[str, Any]]] | None:
    """(name, record) of a list or mapping of flat mappings with few columns in all; else None."""
    if isinstance(value, Mapping):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, list):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        return None
    flat = (str, int, float, bool, type(None))
    for _, record in items:
        if not isinstance(record, Mapping) or not record:
            return None
        if not all(isinstance(v, flat) for v in record.values()):
            return None
    columns = {c for _, record in items for c in record}
    return items if items and len(columns) <= 8 else None


def _source(path: str, sources: Mapping[str, str]) -> str:
    whole = re.split(r"\.\d+(?:\.|$)", path)[0]
    return sources.get(path) or sources.get(whole) or "default"


def _limited(template: str, rows: Sequence[Any], **values: Any) -> Markup:
    more = max(0, len(rows) - MAX_ROWS)
    return render(template, rows=rows[:MAX_ROWS], more=more, **values)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text):,} characters)"
