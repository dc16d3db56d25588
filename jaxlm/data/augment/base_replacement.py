"""Words that are replaced by others of a table: synonyms, homophones.

In a text of w words rate * w are replaced, rounded up as often as makes the mean exact, but no more
than there are words with an alternative, which is drawn uniformly; of homophones, w counts only
these. In a text without spaces a word is the longest run of Chinese characters that the table has,
or else one character. The marks around other words and their capitals stay: "Film," becomes
"Movie,".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from jaxlm.core.config import UserError, field
from jaxlm.data.augment.base import WordAugment, draws
from jaxlm.data.reading.words import CORE, IS_HAN, Unit

if TYPE_CHECKING:
    import numpy as np

    from jaxlm.core.types import Tokenizer

Table = Mapping[str, Sequence[str]]  # alternatives of a word, sorted, without itself
LONGEST = 8  # Chinese characters of a word


class Word(NamedTuple):
    """A word in the units first .. last, and its alternatives."""

    first: int
    last: int
    others: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Replacement(WordAugment, abstract=True):
    """Replace words by others."""

    # Whether the rate is a share of the words that have an alternative, not of all words.
    of_known: ClassVar[bool] = False

    rate: float = field(0.1, "share of the words that are replaced", ge=0, le=1)

    def table(self) -> Table:
        """The alternatives of each word, in lower case. Raises `UserError`."""
        raise NotImplementedError

    def prepare(self, tokenizer: Tokenizer) -> None:
        self.table()

    def change(self, units: list[Unit], rng: np.random.RandomState) -> list[Unit]:
        words = self.words(units)
        known = [word for word in words if word.others]
        size = len(known) if self.of_known else len(words)
        count = min(draws(self.rate, size, rng), len(known))
        chosen = [known[i] for i in sorted(rng.permutation(len(known))[:count])]
        out = list(units)
        for word in reversed(chosen):
            new = word.others[rng.randint(len(word.others))]
            first, last = units[word.first], units[word.last]
            text = "".join(unit.text for unit in units[word.first : word.last + 1])
            unit = first._replace(text=dressed(new, text), gap=last.gap, open=last.open)
            out[word.first : word.last + 1] = [unit]
        return out

    def words(self, units: Sequence[Unit]) -> list[Word]:
        """The words that may be changed, in order."""
        table, found, i = self.table(), [], 0
        while i < len(units):
            if not units[i].is_word:
                i += 1
                continue
            last = self._last(units, i, table)
            text = "".join(unit.text for unit in units[i : last + 1])
            found.append(Word(i, last, table.get(core(text), ())))
            i = last + 1
        return found

    def _last(self, units: Sequence[Unit], first: int, table: Table) -> int:
        """The last unit of the longest word of the table that begins with `first`."""
        text, best = "", first
        for i in range(first, min(first + LONGEST, len(units))):
            if not (units[i].is_word and IS_HAN.search(units[i].text)):
                break
            text += units[i].text
            if text in table:
                best = i
            if units[i].gap:
                break
        return best


def core(text: str) -> str:
    """A word without the marks around it, in lower case."""
    if text.isalnum():
        return text.lower()
    match = CORE.fullmatch(text)
    assert match is not None
    return match[2].lower()


def dressed(new: str, old: str) -> str:
    """A word with the marks and the capitals of another one."""
    match = CORE.fullmatch(old)
    assert match is not None
    before, word, after = match.groups()
    if len(word) > 1 and word.isupper():
        new = new.upper()
    elif word[:1].isupper():
        new = new[:1].upper() + new[1:]
    return before + new + after


def table_of(groups: Iterable[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The table of groups of words that may replace each other. It is sorted: the order of a set
    differs between processes.
    """
    found: dict[str, set[str]] = {}
    for group in groups:
        for word in group:
            found.setdefault(word, set()).update(group)
    return {word: tuple(sorted(all_ - {word})) for word, all_ in found.items() if len(all_) > 1}


def lines_of(content: bytes, where: str) -> list[str]:
    """The lines of a table in UTF-8."""
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason}); convert the file") from None
