"""CMRC 2018 in the format of its first release: paragraphs whose answers are texts alone.

    [{"context_id": "DEV_0", "context_text": "我在北京。", "title": "T", "qas": [
        {"query_id": "DEV_0_QUERY_0", "query_text": "在哪里?", "answers": ["北京"]}]}]

An answer's place is the first one in the context that has its text. CMRC's later releases have the
format `squad`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from jaxlm.data.formats.base import Failed, Placed, Record, RowFormat, Sample, refuse
from jaxlm.data.formats.paragraphs import Keys, questions_of

KEYS = Keys(name="query_id", context="context_text", question="query_text")


@dataclass(frozen=True, kw_only=True)
class Cmrc(RowFormat):
    """`context_text` and `qas` of `query_text` and `answers`, which are texts (CMRC 2018)"""

    task = "question_answering"
    needs = ("context_text", "qas")
    takes = ("context_id", "title")
    keeps = ("title",)

    def wrong(self, names: Mapping[str, str], sample: Sample) -> list[str]:
        rows = [row.get("qas") for _, row in sample.rows]
        return [] if any(isinstance(row, list) for row in rows) else ["qas as a list"]

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        for here, row in items:
            title, answered = row.get("title"), sample.answered
            for record in questions_of(row, KEYS, here, failed, title=title, answered=answered):
                yield f"{here}#{record['id']}", record
