"""Two files whose lines are translations of each other, as Moses has them: `train.en`, `train.de`.

The first file that `data.source.files` names is the source; of one pattern, the first in the
alphabet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlm.core.config import UserError, field
from jaxlm.data.formats.base import Fit, Record, Row, RowFormat, Sample, text_of
from jaxlm.data.formats.translation import check_languages, direction


@dataclass(frozen=True, kw_only=True)
class PairedFiles(RowFormat):
    """two files, `x.en` and `x.de`, line by line; `source` and `target` name the languages"""

    task = "translation"
    needs = ("source", "target")
    separate = True

    source: str | None = field(None, "the language of the source; null: the first")
    target: str | None = field(None, "the language of the target; null: the other one")

    def fit(self, sample: Sample) -> Fit:
        if sample.part != "pairs":
            return Fit((), ("two files as x.en and x.de",))
        source, target = direction(self.source, self.target, sample.columns)
        missing = [name for name in (source, target) if name not in sample.columns]
        return Fit(sample.columns, tuple(missing), f"{source} -> {target}")

    def record(self, row: Row, sample: Sample) -> Record:
        check_languages(self.source, self.target, sample.columns)
        source, target = direction(self.source, self.target, sample.columns)
        return {"source": text_of(row, source), "target": text_of(row, target)}

    def write(self, records: Iterable[Record]) -> Iterator[tuple[str, str]]:
        if self.source is None or self.target is None:
            raise UserError(
                "paired_files are named by their languages; choose --to '{type: paired_files, "
                "source: en, target: de}'"
            )
        for record in records:
            for column, language in (("source", self.source), ("target", self.target)):
                if len(record[column].splitlines()) != 1:
                    raise UserError(f"the {column} has several lines or none; choose translation")
                yield f".{language}", f"{record[column]}\n"
