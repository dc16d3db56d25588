"""The plain values of a config, an environment or a manifest as HTML tables.

    fields_table(flatten({"a": {"b": 1}}))     # one row a leaf: a.b  1
    tree({"train": {"tokens": 5}, "validation": {"tokens": 2}})    # a row each, a column for tokens

All text is escaped here; long values and long tables are cut, and say so.
"""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_TEXT = 600
MAX_ROWS = 200


def escape(value: Any) -> str:
    """`value` as text that is safe in an element and in a quoted attribute."""
    text = str(value).replace("\0", "\ufffd")
    # A lone surrogate, which JSON can hold, has no UTF-8.
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)


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
) -> str:
    """A row for each (dotted path, value), with its source where `sources` is given.

    `prefix` + path is the key in `sources`. An entry of a list has the source of the list.
    """
    rows = []
    for path, value in fields:
        source = _source(f"{prefix}{path}", sources) if sources else None
        rows.append(
            f"<tr><th>{escape(path)}</th><td>{escape(show(value))}</td>"
            + (f'<td class="from">{escape(source)}</td>' if source is not None else "")
            + "</tr>"
        )
    return f'<table class="fields">{_limited(rows, 3)}</table>' if rows else ""


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Any]],
    css: str = "",
    *,
    right: Sequence[str] = (),
) -> str:
    """A table with a header row. Numbers are aligned right, and columns that `right` names."""
    rows = list(rows)
    numeric = [
        bool(rows)
        and (name in right or all(isinstance(row[i], (int, float, type(None))) for row in rows))
        for i, name in enumerate(head)
    ]

    def cell(tag: str, value: Any, right: bool) -> str:
        text = "" if value is None else show(value)
        return f"<{tag}{' class=n' if right else ''}>{escape(text)}</{tag}>"

    body = [
        "<tr>" + "".join(cell("td", v, n) for v, n in zip(row, numeric, strict=True)) + "</tr>"
        for row in rows
    ]
    titles = "".join(cell("th", name, n) for name, n in zip(head, numeric, strict=True))
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>{titles}</tr></thead>'
        f"{_limited(body, len(head))}</table></div>"
    )


def tree(value: Mapping[str, Any]) -> str:
    """A nested mapping: leaves as rows, mappings with common keys as one table."""
    leaves = [(k, v) for k, v in value.items() if _records(v) is None]
    plain = [pair for key, item in leaves for pair in flatten(item, str(key))]
    parts = [fields_table(plain)]
    for key, item in value.items():
        records = _records(item)
        if records is not None:
            columns = list(dict.fromkeys(c for _, record in records for c in record))
            names = isinstance(item, Mapping)
            head = [""] * names + columns
            body = [[n] * names + [record.get(c) for c in columns] for n, record in records]
            parts.append(f"<h3>{escape(key)}</h3>{table(head, body)}")
    return "".join(parts)


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


def _limited(rows: list[str], columns: int) -> str:
    if len(rows) <= MAX_ROWS:
        return "".join(rows)
    more = f'<tr><td colspan="{columns}">and {len(rows) - MAX_ROWS:,} more</td></tr>'
    return "".join(rows[:MAX_ROWS]) + more


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text):,} characters)"
