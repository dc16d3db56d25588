"""ArrayRecord files, which grain's tools write."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxlm.core.config import UserError, field
from jaxlm.core.errors import one_line
from jaxlm.core.optional import need
from jaxlm.data.reading.files import match_files
from jaxlm.data.reading.rows import Row, json_object
from jaxlm.data.sources.base import Unit
from jaxlm.data.sources.base_rows import RowFiles


@dataclass(frozen=True, kw_only=True)
class ArrayRecord(RowFiles):
    """ArrayRecord files whose records are UTF-8 text or JSON objects."""

    record: Literal["text", "json"] = field("text", "what a record is: a text, or a JSON object")
    records_per_unit: ClassVar[int] = 4096

    def validate(self) -> None:
        super().validate()
        if self.record == "text" and self.label_column:
            raise UserError("label_column needs columns; set record: json")

    def units(self) -> list[Unit]:
        units = []
        for name, path in match_files(self.files).items():
            with self._open(path) as reader:
                total = reader.num_records()
            for start in range(0, total, self.records_per_unit):
                stop = min(start + self.records_per_unit, total)
                units.append(Unit(f"{name}#{start}", (name, path, start, stop), self))
        return units

    def name_of(self, unit: Unit) -> str:
        return unit.origin[0]

    def rows(self, unit: Unit, columns: Sequence[str]) -> Iterator[Row]:
        _, path, start, stop = unit.origin
        with self._open(path) as reader:
            records = reader.read(start, stop)
        for number, record in enumerate(records, start=start):
            here = f"{path}:{number}"
            try:
                text = record.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{here}: byte {error.start} of the record is not UTF-8; records must be texts"
                ) from None
            yield (
                here,
                json_object(text, here) if self.record == "json" else {self.text_column: text},
            )

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        module = need("array_record.python.array_record_module", "formats", "an ArrayRecord source")
        try:
            reader = module.ArrayRecordReader(str(path))
            yield reader
            reader.close()
        except Exception as error:  # the reader raises bare C++ statuses, some only on closing
            raise UserError(
                f"{path}: cannot be read as ArrayRecord ({one_line(error)}); check or replace it"
            ) from None
