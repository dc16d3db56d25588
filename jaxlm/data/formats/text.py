"""Running text: a file is one record, or several with a separator between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.data.formats.base import Failed, Fit, LineFormat, Placed, Record, Sample, refuse


@dataclass(frozen=True, kw_only=True)
class Text(LineFormat):
    """plain text: a file is a record, or each of its lines (`by: line`) or paragraphs"""

    task = "text"

    by: str = field("file", "what is a record: file, paragraph (empty lines between them) or line")

    def validate(self) -> None:
        if self.by not in ("file", "paragraph", "line"):
            raise UserError(f"by: unknown value {shown(self.by)}; choose file, paragraph or line")

    def fit(self, sample: Sample) -> Fit:
        if len(sample.columns) > 1:
            return Fit((), ("lines without tabs",))  # a table, whose columns have to be known
        return Fit() if any(line.strip() for line in sample.lines) else Fit((), ("text",))

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        held: list[str] = []
        place = ""
        for here, line in items:
            if self.by == "line" or (self.by == "paragraph" and not line.strip()):
                if self.by == "line":
                    held, place = [line], here
                yield from _joined(place, held)
                held = []
                continue
            place = place if held else here
            held.append(line)
        if self.by != "line":
            yield from _joined(place, held)

    def write(self, records: Iterable[Record]) -> Iterator[str]:
        """With `by: file` too, an empty line is between records: `by: paragraph` reads them."""
        divided = False
        for number, record in enumerate(records):
            lines = record["text"].split("\n")
            divided = divided or not all(line.strip() for line in lines)
            if self.by == "line" and len(lines) > 1:
                raise UserError("a text has several lines, and a record one; choose text_column")
            if divided and (number or self.by != "file"):
                raise UserError(
                    "a text has an empty line, which would divide the record; choose text_column"
                )
            if number and self.by != "line":
                yield ""
            yield from lines


def _joined(place: str, lines: list[str]) -> Iterator[tuple[str, Record]]:
    text = "\n".join(lines)
    if text.strip():
        yield place, {"text": text}
