"""Running text: a file is one record, or several with a separator between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlm.core.config import UserError, field
from jaxlm.data.formats.base import Failed, Fit, LineFormat, Placed, Record, Sample, refuse


@dataclass(frozen=True, kw_only=True)
class Text(LineFormat):
    """plain text: a file is a record, or each of its lines (`by: line`) or paragraphs"""

    task = "text"

    by: str = field("file", "what is a record: file, paragraph (empty lines between them) or line")

    def validate(self) -> None:
        if self.by not in ("file", "paragraph", "line"):
            raise UserError(f"by: unknown value {self.by!r}; choose file, paragraph or line")

    def fit(self, sample: Sample) -> Fit:
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
        for number, record in enumerate(records):
            if number:
                yield ""
            yield from record["text"].splitlines()


def _joined(place: str, lines: list[str]) -> Iterator[tuple[str, Record]]:
    text = "\n".join(lines)
    if text.strip():
        yield place, {"text": text}
