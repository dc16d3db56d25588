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

from jaxlm.core.config import field
from jaxlm.data.formats.answers import OFFSETS, check_offsets
from jaxlm.data.formats.base import Failed, Placed, Record, RowFormat, Sample, refuse
from jaxlm.data.formats.paragraphs import Keys, listed, questions_of

KEYS = Keys(name="id", context="context", question="question")


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
            title = article.get("title") if isinstance(article, Mapping) else None
            for number, paragraph in enumerate(
                listed(article, "paragraphs", here, failed), start=1
            ):
                for record in questions_of(
                    paragraph,
                    KEYS,
                    f"{here}: paragraph {number}",
                    failed,
                    title=title,
                    offsets=self.offsets,
                    answered=sample.answered,
                ):
                    yield f"{here}#{record['id']}", record

    def write(self, records: Iterable[Record]) -> Iterator[Any]:
        """An article for consecutive records of a title."""
        for title, titled in groupby(records, key=lambda record: record.get("title")):
            paragraphs = []
            for context, asked in groupby(titled, key=lambda record: record["context"]):
                paragraphs.append({"context": context, "qas": [_written(one) for one in asked]})
            yield {"title": title, "paragraphs": paragraphs}


def _written(record: Record) -> dict[str, Any]:
    answers = record["answers"]
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    row = {
        "id": record["id"],
        "question": record["question"],
        "answers": [{"text": text, "answer_start": start} for text, start in pairs],
    }
    return row | ({} if answers["text"] else {"is_impossible": True})
