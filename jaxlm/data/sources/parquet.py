"""Parquet files, by way of pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.errors import one_line
from jaxlm.core.optional import need
from jaxlm.data.reading.files import match_files
from jaxlm.data.reading.rows import Row, cell, check_columns
from jaxlm.data.sources.base import Unit
from jaxlm.data.sources.base_rows import RowFiles


@dataclass(frozen=True, kw_only=True)
class Parquet(RowFiles):
    """Parquet files, read a row group at a time."""

    def units(self) -> list[Unit]:
        units = []
        for name, path in match_files(self.files).items():
            file, first = self._open(path), 0
            for group in range(file.num_row_groups):
                units.append(Unit(f"{name}#{group}", (name, path, group, first), self))
                first += file.metadata.row_group(group).num_rows
        return units

    def name_of(self, unit: Unit) -> str:
        return unit.origin[0]

    def rows(self, unit: Unit, columns: Sequence[str]) -> Iterator[Row]:
        _, path, group, number = unit.origin
        file = self._open(path)
        check_columns(file.schema_arrow.names, str(path))
        known = dict.fromkeys(file.schema_arrow.names)
        own = {"text": self.text_column, "label": self.label_column or "label"}
        read = [own.get(name, name) for name in columns]
        read += [self.label_column] if self.label_column else []
        for column in read:
            cell(known, column, str(path))
        try:
            for batch in file.iter_batches(
                1024, row_groups=[group], columns=[*dict.fromkeys(read)]
            ):
                for row in batch.to_pylist():
                    yield f"{path}:{number}", row
                    number += 1
        except (
            OSError,
            UnicodeDecodeError,
            need("pyarrow", "formats", "Parquet").ArrowException,
        ) as error:
            raise UserError(
                f"{path}: row group {group} cannot be read ({one_line(error)}); replace the file"
            ) from None

    def _open(self, path: Path) -> Any:
        parquet = need("pyarrow.parquet", "formats", "a Parquet source")
        try:
            return parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: not a Parquet file ({one_line(error)}); replace the file"
            ) from None
