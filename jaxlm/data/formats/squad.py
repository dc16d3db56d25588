"""SQuAD 1.1 and 2.0 and CMRC: articles of paragraphs, each with a context and its questions.

    {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "Paris is ...", "qas": [
        {"id": "1", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 0}],
         "is_impossible": false}]}]}]}

`answer_start` counts characters (`offsets: bytes` or `utf16` where a file counts those). Answers
that are texts alone (CMRC) are looked for in the context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.data.formats.answers import OFFSETS, answers_of, check_offsets
from jaxlm.data.formats.base import Failed, Placed, Record, Row, RowFormat, Sample, refuse


@dataclass(frozen=True, kw_only=True)
class Squad(RowFormat):
    """`data` of `paragraphs` of `context` and `qas` (SQuAD 1 and 2, CMRC)"""

    task = "question_answering"
    needs = ("paragraphs",)
    keeps = ("title",)
    head = {"version": "v2.0"}

    offsets: str = field("characters", f"what answer_start counts: {', '.join(OFFSETS)}")

    def validate(self) -> None:
        check_offsets(self.offsets)

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        rows = [row.get("paragraphs") for _, row in sample.rows]
        return [] if any(isinstance(row, list) for row in rows) else ["paragraphs as a list"]

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        for here, article in items:
            for number, paragraph in enumerate(_list(article, "paragraphs", here, failed), start=1):
                place = f"{here}: paragraph {number}"
                for question in _list(paragraph, "qas", place, failed):
                    try:
                        record = self._record(question, paragraph, article, sample.answered)
                    except UserError as error:
                        failed(UserError(f"{place}: {error}"))
                        continue
                    yield f"{here}#{record['id']}", record

    def _record(self, question: Any, paragraph: Row, article: Row, answered: bool) -> Record:
        if not isinstance(question, Mapping):
            raise UserError(f"a question is a {type(question).__name__}; write an object")
        name = question.get("id", "without an id")
        context, asked = paragraph.get("context"), question.get("question")
        for what, value in (("context", context), ("question", asked)):
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"question {shown(name)}: has no {what}; add it or remove it")
        assert isinstance(context, str)
        record = {"id": str(name), "context": context, "question": asked}
        record["title"] = article.get("title")
        if not answered:
            return record
        try:
            given = [] if question.get("is_impossible") is True else question.get("answers")
            return record | {"answers": answers_of(given, context, self.offsets)}
        except UserError as error:
            raise UserError(f"question {shown(name)}: {error}") from None

    def write(self, records: Iterable[Record]) -> Iterator[Any]:
        """An article for consecutive records of a title."""
        for title, titled in groupby(records, key=lambda record: record.get("title")):
            paragraphs = []
            for context, asked in groupby(titled, key=lambda record: record["context"]):
                paragraphs.append({"context": context, "qas": [_written(one) for one in asked]})
            yield {"title": title, "paragraphs": paragraphs}


def _list(values: Any, name: str, here: str, failed: Failed) -> list[Any]:
    """The list of objects under a key; `failed` gets the error if there is no such list."""
    found = values.get(name) if isinstance(values, Mapping) else None
    if isinstance(found, list):
        return found
    failed(UserError(f"{here}: has no list {name!r}; add it or remove the object"))
    return []


def _written(record: Record) -> dict[str, Any]:
    answers = record["answers"]
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    row = {
        "id": record["id"],
        "question": record["question"],
        "answers": [{"text": text, "answer_start": start} for text, start in pairs],
    }
    return row | ({} if answers["text"] else {"is_impossible": True})
