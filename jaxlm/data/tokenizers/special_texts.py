"""Texts in which a special token is spelt and meant, as in what a chat template writes.

with_special("Hi</s>", {"</s>": 2}, tokenizer.encode_with_offsets)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Span = tuple[int, int]  # characters [start, end) of a text
Placed = tuple[list[int], list[Span]]  # ids, and the characters of each


def with_special(text: str, special: Mapping[str, int], encode: Callable[[str], Placed]) -> Placed:
    """A text in which the spellings of special tokens become their ids; what is between them is
    encoded piece by piece. A longer spelling is found before one that it begins with.
    """
    if not special:
        return encode(text)
    names = sorted(special, key=len, reverse=True)
    ids: list[int] = []
    offsets: list[Span] = []

    def add(start: int, end: int) -> None:
        if start < end:
            own, spans = encode(text[start:end])
            ids.extend(own)
            offsets.extend((start + a, start + b) for a, b in spans)

    place = 0
    for match in re.finditer("|".join(map(re.escape, names)), text):
        add(place, match.start())
        ids.append(special[match[0]])
        offsets.append(match.span())
        place = match.end()
    add(place, len(text))
    return ids, offsets
