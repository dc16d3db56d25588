"""A text as words that can be changed, while words of some places stay and move along.

    units = cut("A fine film.")              # A, fine, film.  with the white space after each
    joined(units)                            # "A fine film."
    text, spans = around(text, [(2, 6)], change)     # the place of "fine" in the changed text

A word is what is between white space; of Chinese characters each is a word. A unit that is not
`free` stays as it is, and those of one span stay side by side: nothing comes between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
UNIT = re.compile(rf"([{HAN}]|[^\s{HAN}]+)(\s*)")
IS_HAN = re.compile(rf"[{HAN}]")
DENSE = re.compile(rf"[{HAN}\u3000-\u303f\uff00-\uffef]")  # with the marks of Chinese
WORD = re.compile(r"\w")
CORE = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)
Span = tuple[int, int]  # begin, end


class Unit(NamedTuple):
    """A word, or a mark between white space."""

    text: str
    gap: str  # the white space after it
    origin: int  # the number of the word that it is, or that a new one is like
    free: bool = True  # whether it may be changed
    open: bool = True  # whether a word may be put after it

    @property
    def is_word(self) -> bool:
        return self.free and WORD.search(self.text) is not None


Change = Callable[[list[Unit]], list[Unit]]


def cut(text: str) -> tuple[str, list[Unit]]:
    """The white space in front of a text, and its units."""
    head = text[: len(text) - len(text.lstrip())]
    found = UNIT.finditer(text, len(head))
    return head, [Unit(match[1], match[2], i) for i, match in enumerate(found)]


def joined(head: str, units: Sequence[Unit]) -> str:
    """The text of these units."""
    return head + "".join(unit.text + unit.gap for unit in units)


def around(text: str, spans: Sequence[Span], change: Change) -> tuple[str, list[Span]]:
    """The changed text, and where the texts of `spans` are in it. They are as they were.

    spans: begin and end in characters; none of them is empty.
    """
    head, units = cut(text)
    starts = _starts(head, units)
    before = []
    for unit, start in zip(units, starts, strict=True):
        end = start + len(unit.text)
        over = [b for a, b in spans if a < end + len(unit.gap) and b > start]
        before.append(unit._replace(free=not over, open=all(b <= end for b in over)))
    after = spaced(change(before))
    places = {
        unit.origin: start
        for unit, start in zip(after, _starts(head, after), strict=True)
        if not unit.free
    }
    moved = []
    for a, b in spans:
        ends = (s + len(u.text) + len(u.gap) for u, s in zip(units, starts, strict=True))
        first = next(i for i, end in enumerate(ends) if end > a)
        shift = places[first] - starts[first]
        moved.append((a + shift, b + shift))
    return joined(head, after), moved


def of_words(
    words: Sequence[str], spans: Sequence[Span], change: Change
) -> tuple[list[str], list[int]]:
    """The changed words, and for each the number of the word whose tag it has.

    spans: the first word and the one after the last one, of words that stay together as they are.
    """
    inside = {i for a, b in spans for i in range(a, b)}
    closed = {i for a, b in spans for i in range(a, b - 1)}
    before = [Unit(w, " ", i, i not in inside, i not in closed) for i, w in enumerate(words)]
    after = change(before)
    return [unit.text for unit in after], [unit.origin for unit in after]


def spaced(units: Sequence[Unit]) -> list[Unit]:
    """Units with a space where two would touch that are not Chinese: two of a text never do."""
    found = list(units)
    for i, (unit, following) in enumerate(pairwise(units)):
        if unit.gap or DENSE.match(unit.text[-1:]) or DENSE.match(following.text[:1]):
            continue
        found[i] = unit._replace(gap=" ")
    return found


def placed_after(unit: Unit, word: str, origin: int) -> list[Unit]:
    """A unit and a new word after it, like word `origin`; Chinese is written without a space."""
    dense = not unit.gap and DENSE.match(unit.text[-1:]) and IS_HAN.match(word)
    return [unit._replace(gap="" if dense else " "), Unit(word, unit.gap, origin)]


def _starts(head: str, units: Sequence[Unit]) -> list[int]:
    """The beginning of each unit in the text."""
    found, place = [], len(head)
    for unit in units:
        found.append(place)
        place += len(unit.text) + len(unit.gap)
    return found
