"""CoNLL-U: ten columns with tabs between them, of which FORM is the token and UPOS its tag.

    # text = They buy books.
    1<TAB>They<TAB>they<TAB>PRON<TAB>...

Comments, words of several tokens (`1-2`) and empty nodes (`1.1`) are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import shown
from jaxlm.data.formats.base import Failed, Fit, LineFormat, Placed, Record, Sample, refuse
from jaxlm.data.formats.tags import pairs_of

COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
NUMBER = re.compile(r"\d+")
PASSED_OVER = re.compile(r"\d+[-.]\d+")


def is_conllu(lines: Sequence[str]) -> bool:
    rows = [line.split("\t") for line in lines if line.strip() and not line.startswith("#")]
    numbered = (NUMBER.fullmatch(row[0]) or PASSED_OVER.fullmatch(row[0]) for row in rows)
    return bool(rows) and all(len(row) == len(COLUMNS) for row in rows) and all(numbered)


@dataclass(frozen=True, kw_only=True)
class CoNLLU(LineFormat):
    """ten columns with tabs between them: FORM is the token, UPOS (`tag: XPOS`) its tag"""

    task = "tagging"

    tag: str = field("UPOS", f"the column of the tag, one of {', '.join(COLUMNS)}")

    def validate(self) -> None:
        if self.tag not in COLUMNS:
            raise UserError(f"tag: unknown column {shown(self.tag)}; choose one of {COLUMNS}")

    def fit(self, sample: Sample) -> Fit:
        if is_conllu(sample.lines):
            return Fit(("FORM", self.tag))
        return Fit((), ("ten columns with tabs between them, the first a number",))

    def records(
        self, items: Iterable[Placed], sample: Sample, failed: Failed = refuse
    ) -> Iterator[tuple[str, Record]]:
        tokens: list[str] = []
        tags: list[str] = []
        place, wrong = "", None
        for here, line in _with_end(items):
            cells = line.split("\t")
            if not line.strip():
                if wrong is not None:
                    failed(wrong)
                elif tokens:
                    yield place, {"tokens": tokens, **({"tags": tags} if sample.answered else {})}
                tokens, tags, wrong = [], [], None
            elif line.startswith("#") or PASSED_OVER.fullmatch(cells[0]):
                continue
            elif len(cells) != len(COLUMNS) or not NUMBER.fullmatch(cells[0]):
                text = f"{here}: has {len(cells)} columns, not a number and nine others; correct it"
                wrong = wrong or UserError(text)
            else:
                place = place if tokens else here
                tokens.append(cells[1])
                tags.append(cells[COLUMNS.index(self.tag)])

    def write(self, records: Iterable[Record]) -> Iterator[str]:
        for record in records:
            for number, (token, tag) in enumerate(pairs_of(record), start=1):
                cells = [str(number), token, *"_" * 8]
                cells[COLUMNS.index(self.tag)] = tag
                if any("\t" in cell or not cell.isprintable() for cell in cells):
                    raise UserError(f"the token {token!r} has a tab or a line end; choose tokens")
                yield "\t".join(cells)
            yield ""


def _with_end(items: Iterable[Placed]) -> Iterator[Placed]:
    yield from items
    yield "", ""
