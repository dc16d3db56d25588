"""Slips of the keyboard in words: characters that are added, left out, swapped or replaced.

    augment: [{type: character_noise, rate: 0.03, edits: [swap, replace]}]

With n letters and digits in words, except the first one of a word, rate * n get one edit each,
rounded up as often as makes the mean exact; which edit is drawn uniformly. What is added before a
character or replaces it is its neighbour on a QWERTY keyboard, or of one that is not on it another
character of the text. A swap is with the character before it, which is not the word's first letter.
Chinese characters are not changed: `homophones` is for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxlm.core.config import UserError, field
from jaxlm.data.augment.base import WordAugment, draws
from jaxlm.data.reading.words import IS_HAN

if TYPE_CHECKING:
    import numpy as np

    from jaxlm.data.reading.words import Unit

ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")  # each half a key to the right


def _neighbours() -> dict[str, str]:
    found: dict[str, str] = {}
    for y, row in enumerate(ROWS):
        for x, key in enumerate(row):
            places = [
                (x - 1, y),
                (x + 1, y),
                (x, y - 1),
                (x + 1, y - 1),
                (x - 1, y + 1),
                (x, y + 1),
            ]
            keys = [ROWS[b][a] for a, b in places if 0 <= b < len(ROWS) and 0 <= a < len(ROWS[b])]
            found[key] = "".join(keys)
    return found


NEIGHBOURS = _neighbours()


@dataclass(frozen=True, kw_only=True)
class CharacterNoise(WordAugment):
    """Make slips of the keyboard in words."""

    rate: float = field(0.03, "share of the characters that are edited", ge=0, le=1)
    edits: tuple[Literal["insert", "delete", "swap", "replace"], ...] = field(
        ("insert", "delete", "swap", "replace"), "the edits that are made"
    )

    def validate(self) -> None:
        if not self.edits:
            raise UserError("edits is empty; name some of insert, delete, swap and replace")

    def change(self, units: list[Unit], rng: np.random.RandomState) -> list[Unit]:
        places = [
            (i, k, edits)
            for i, unit in enumerate(units)
            if unit.is_word
            for k, edits in self._places(unit.text)
        ]
        count = draws(self.rate, len(places), rng)
        letters = "".join(units[i].text[k] for i, k, _ in places)
        out = list(units)
        for at in sorted(rng.permutation(len(places))[:count], reverse=True):  # from the right
            i, k, edits = places[at]
            edit = edits[rng.randint(len(edits))]
            out[i] = out[i]._replace(text=_edited(out[i].text, k, edit, letters, rng))
        return out

    def _places(self, text: str) -> Iterator[tuple[int, Sequence[str]]]:
        """The characters of a word that may be edited, and the edits that each may get."""
        first = next((k for k, char in enumerate(text) if char.isalnum()), len(text))
        fixed = {first, *(match.start() for match in IS_HAN.finditer(text))}
        alone = [edit for edit in self.edits if edit != "swap"]
        for k in range(first + 1, len(text)):
            edits = alone if k - 1 in fixed else self.edits
            if edits and k not in fixed and text[k].isalnum():
                yield k, edits


def _edited(text: str, k: int, edit: str, letters: str, rng: np.random.RandomState) -> str:
    """A word with one edit of its character k > 0."""
    before, char, after = text[:k], text[k], text[k + 1 :]
    if edit == "delete":
        return before + after
    if edit == "swap":
        return before[:-1] + char + before[-1] + after
    keys = NEIGHBOURS.get(char.lower()) or letters
    new = keys[rng.randint(len(keys))]
    new = new.upper() if char.isupper() else new
    return before + new + (char if edit == "insert" else "") + after
