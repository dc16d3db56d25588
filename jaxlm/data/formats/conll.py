"""CoNLL's columns: a token a line with its tag last, and an empty line after each sentence.

    EU NNP B-NP B-ORG
    rejects VBZ B-VP O

Lines that begin with -DOCSTART- are passed over. Columns are divided by spaces or tabs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.data.formats.base import Failed, Fit, LineFormat, Placed, Record, Sample, refuse
from jaxlm.data.formats.conllu import is_conllu
from jaxlm.data.formats.tags import are_spans, checked, pairs_of, spans_in

DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True, kw_only=True)
class CoNLL(LineFormat):
    """lines of a token and columns, the last of which is its tag; empty lines end sentences"""

    task = "tagging"
    version = 2

    token: int = field(0, "the column of the token, counted from 0; from the end if negative")
    tag: int = field(-1, "the column of the tag, counted from 0; from the end if negative")

    def fit(self, sample: Sample) -> Fit:
        lines = [line.split() for line in sample.lines if not line.startswith(DOCUMENT)]
        cells = [row for row in lines if row]
        wrong = Fit((), ("lines of a token and its tag, with an empty line after each sentence",))
        if len({len(row) for row in cells}) != 1 or is_conllu(sample.lines):
            return wrong
        width = len(cells[0])
        if not sample.answered and width == 1:  # a token alone on each line
            return Fit(("token",)) if [] in lines[:-1] else wrong
        if width < 2 or not self._has(width):
            return wrong
        tags = [row[self.tag] for row in cells]
        if are_spans(tags) or ([] in lines[:-1] and len({*tags}) <= max(len(tags) / 2, 3)):
            if not sample.answered:
                return Fit(("token",))  # the tags are there, and are not read
            return Fit(("token", "tag"), note="spans in BIO" if are_spans(tags) else "")
        return wrong

    def _has(self, width: int) -> bool:
        return all(-width <= place < width for place in (self.token, self.tag))

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        rows = [line.split() for line in sample.lines if not line.startswith(DOCUMENT)]
        width = max(map(len, rows), default=0)
        spans: bool | None = False
        if self._has(width):
            spans = spans_in(row[self.tag] for row in rows if len(row) == width)
        for place, sentence in sentences(items):
            try:
                record = self._record(sentence, width, sample.answered)
                if sample.answered:
                    if spans is None:
                        spans = spans_in(record["tags"])
                    record["tags"] = self._tags(place, record, bool(spans))
                yield place, record
            except UserError as error:
                failed(error)

    def _record(self, sentence: list[Placed], width: int, answered: bool) -> Record:
        for here, cells in sentence:
            if len(cells) != width:
                raise UserError(
                    f"{here}: has {len(cells)} columns, and the lines before have {width}; correct "
                    "it, or put an empty line between sentences"
                )
        tokens = [cells[self.token] for _, cells in sentence]
        if not answered:
            return {"tokens": tokens}
        return {"tokens": tokens, "tags": [cells[self.tag] for _, cells in sentence]}

    def _tags(self, place: str, record: Record, spans: bool) -> list[str]:
        try:
            return checked(record["tokens"], record["tags"], spans)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None

    def write(self, records: Iterable[Record]) -> Iterator[str]:
        for record in records:
            for token, tag in pairs_of(record):
                yield f"{word(token)} {word(tag)}"
            yield ""


def sentences(items: Iterable[Placed]) -> Iterator[tuple[str, list[Placed]]]:
    """(place of its first line, cells of its lines) of each sentence."""
    held: list[Placed] = []
    for here, line in items:
        cells = line.split()
        if cells and not line.startswith(DOCUMENT):
            held.append((here, cells))
        elif held:
            yield held[0][0], held
            held = []
    if held:
        yield held[0][0], held


def word(text: str) -> str:
    """A token or tag, as a column has it. Raises `UserError` where white space is in it."""
    if text.split() != [text]:
        raise UserError(f"the token {shown(text)} has white space or is empty; choose tokens")
    return text
