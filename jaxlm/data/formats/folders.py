"""One file a text, in a folder that is named as its class: `pos/1.txt`, `neg/1.txt`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.data.formats.base import Fit, Record, Row, RowFormat, Sample, text_of


@dataclass(frozen=True, kw_only=True)
class Folders(RowFormat):
    """files of text in folders that are named as their classes"""

    task = "classification"
    needs = ("text", "label")
    separate = True

    def fit(self, sample: Sample) -> Fit:
        if sample.part == "folders":
            return Fit(("text", "label"))
        return Fit((), ("files in one folder for each class",))

    def record(self, row: Row, sample: Sample) -> Record:
        return {"text": text_of(row, "text", blank=True), "label": row["label"]}

    def write(self, records: Iterable[Record]) -> Iterator[tuple[str, str]]:
        for number, record in enumerate(records):
            label = str(record["label"])
            if isinstance(record["label"], list) or "/" in label or label in ("", ".", ".."):
                raise UserError(
                    f"the label {shown(record['label'])} is not the name of a folder; choose "
                    "classification"
                )
            yield f"/{label}/{number:06}.txt", record["text"]
