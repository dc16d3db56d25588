"""CSV and TSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxlm.core.config import field
from jaxlm.data.reading.compressed import open_file
from jaxlm.data.reading.rows import Row, check_columns, csv_rows, validate_delimiter
from jaxlm.data.reading.text import decode, validate_text_options
from jaxlm.data.sources.base import Unit
from jaxlm.data.sources.base_rows import RowFiles


@dataclass(frozen=True, kw_only=True)
class Csv(RowFiles):
    """CSV or TSV with a header line or given column names, plain or .gz, .zst, .bz2 or .xz."""

    columns: tuple[str, ...] = field((), "names of the columns of a file without a header line")
    delimiter: str | None = field(
        None, "between cells; by default tab for .tsv and .txt, else comma"
    )
    quotes: bool | None = field(
        None, "whether cells may be quoted; null: yes, but not over lines that have tabs"
    )
    encoding: str = field("utf-8", "the encoding of the files; every byte must be valid in it")

    def validate(self) -> None:
        super().validate()
        validate_text_options(None, self.encoding)
        validate_delimiter(self.delimiter)
        check_columns(self.columns, "columns")

    def rows(self, unit: Unit, columns: Sequence[str]) -> Iterator[Row]:
        with open_file(unit.origin) as file:
            where = str(unit.origin)
            yield from csv_rows(
                decode(file, where, self.encoding),
                where,
                delimiter=self.delimiter,
                columns=self.columns,
                quotes=self.quotes,
                most=self.max_document_chars,
            )
