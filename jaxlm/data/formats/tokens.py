"""{"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]}; the tags may be numbers of `names`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import few, shown
from jaxlm.data.formats.base import (
    Failed,
    Fit,
    Placed,
    Record,
    Row,
    RowFormat,
    Sample,
    column,
    refuse,
)
from jaxlm.data.formats.classification import named
from jaxlm.data.formats.messages import parsed
from jaxlm.data.formats.tags import are_spans, checked, spans_in

TOKENS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "pos_tags", "labels", "chunk_tags", "upos", "tag")


@dataclass(frozen=True, kw_only=True)
class Tokens(RowFormat):
    """`tokens` (`words`) and `ner_tags` (`tags`, `pos_tags`, ...), two lists"""

    task = "tagging"
    cells = True
    version = 2
    needs = ("|".join(TOKENS), "|".join(TAGS))
    answers = ("|".join(TAGS),)

    tags: str | None = field(None, "the column of the tags; null: the first of those above")
    names: tuple[str, ...] = field((), "the names of tags that are numbers, in their order")

    def fit(self, sample: Sample) -> Fit:
        fit = super().fit(sample)
        if not fit or not sample.answered:
            return fit
        name = self.tags or fit.columns[1]
        if name not in sample.columns:
            return Fit(fit.columns, (name,))
        return Fit((fit.columns[0], name))

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        for name in names.values():
            values = [row.get(name) for _, row in sample.rows if row.get(name) is not None]
            if not values or not all(isinstance(_parsed(value), list) for value in values):
                return [f"{name} as a list"]
        return []

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        name = self.tags or next((name for name in TAGS if name in sample.columns), "tags")
        known = self.names or (sample.names or {}).get(name, ())
        spans = are_spans(known) if known else spans_in(_seen(sample, name))
        for here, row in items:
            try:
                tokens = _list(row, *TOKENS)
                if not all(isinstance(token, str) for token in tokens):
                    raise UserError("column 'tokens' is not a list of texts; correct it")
                record: Record = {"tokens": tokens}
                if sample.answered:
                    tags = [self._tag(tag, known, name) for tag in _list(row, name)]
                    if spans is None:
                        spans = spans_in(tags)
                    record["tags"] = checked(tokens, tags, bool(spans))
            except UserError as error:
                failed(UserError(f"{here}: {error}"))
                continue
            yield here, {**row, **record}

    def _tag(self, tag: Any, known: Sequence[str], name: str) -> str:
        if isinstance(tag, int) and not isinstance(tag, bool) and not known:
            raise UserError(
                f"column {name!r} holds numbers whose names the file does not have; set "
                "data.source.format={type: tokens, names: [O, B-PER, ...]} in their order"
            )
        tag = named(tag, known, name)
        if not isinstance(tag, str) or not tag:
            raise UserError(f"column {name!r} holds {shown(tag)}; write names of tags")
        return tag

    def row(self, record: Record) -> dict[str, Any]:
        return {"tokens": record["tokens"], "ner_tags": record["tags"]}


def _seen(sample: Sample, name: str) -> set[str]:
    """The tags of a sample."""
    lists = [_parsed(row.get(name)) for _, row in sample.rows]
    return {tag for tags in lists if isinstance(tags, list) for tag in map(str, tags)}


def _parsed(value: Any) -> Any:
    """A list, or its JSON in a table's cell."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return parsed(value, "a cell")
    except UserError:
        return value


def _list(row: Row, *names: str) -> list[Any]:
    value = _parsed(column(row, *names))
    if not isinstance(value, list):
        raise UserError(f"column {few(names)} holds {shown(value)}, not a list; correct it")
    return value
