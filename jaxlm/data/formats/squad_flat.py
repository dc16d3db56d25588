"""SQuAD's questions as rows, as Hugging Face has them.

{"id": "1", "title": "T", "context": "Paris is ...", "question": "Where?",
 "answers": {"text": ["Paris"], "answer_start": [0]}}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.data.formats.answers import OFFSETS, answers_of, check_offsets
from jaxlm.data.formats.base import Record, Row, RowFormat, Sample, text_of
from jaxlm.data.formats.messages import parsed


@dataclass(frozen=True, kw_only=True)
class SquadFlat(RowFormat):
    """`context`, `question` and `answers` of `text` and `answer_start`, maybe `id` and `title`"""

    task = "question_answering"
    cells = True
    needs = ("context", "question", "answers")
    answers = ("answers",)
    takes = ("id", "title")
    keeps = ("title",)

    offsets: str = field("characters", f"what answer_start counts: {', '.join(OFFSETS)}")

    def validate(self) -> None:
        check_offsets(self.offsets)

    def record(self, row: Row, sample: Sample) -> Record:
        context = text_of(row, "context")
        name = row.get("id")
        record: Record = {
            "id": str(name) if name is not None else None,
            "context": context,
            "question": text_of(row, "question"),
            "title": row.get("title"),
        }
        if not sample.answered:
            return record
        try:
            given = parsed(row.get("answers"), "column 'answers'")
            return record | {"answers": answers_of(given, context, self.offsets)}
        except UserError as error:
            where = f"question {shown(name)}: " if name is not None else ""
            raise UserError(f"{where}{error}") from None

    def row(self, record: Record) -> dict[str, Any]:
        names = ("id", "title", "context", "question", "answers")
        return {name: record[name] for name in names if record.get(name) is not None}
