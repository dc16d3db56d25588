"""Which characters of a text each of its tokens covers.

    tokenizer.encode_with_offsets("né")       # of bytes: [...], [(0, 1), (1, 2), (1, 2)]

A token that spells a part of a character covers all of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Span = tuple[int, int]  # characters [start, end) of a text
Placed = tuple[list[int], list[Span]]  # ids, and the characters of each


def by_bytes(pieces: Sequence[bytes], text: str) -> list[Span]:
    """The characters of each token from the bytes that tokens add to a text; a space that the
    tokenizer puts before every text belongs to none. Where a tokenizer changes the text, the two
    are matched.
    """
    content, spelt = text.encode("utf-8"), b"".join(pieces)
    extra = len(spelt) - len(content)
    if spelt != content and spelt != b" " + content:
        return _matched(pieces, text)
    # character of each byte: the number of characters that begin at or before it
    starts = (np.frombuffer(content, np.uint8) & 0xC0) != 0x80
    character = np.cumsum(starts) - 1
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64) - extra
    spans: list[Span] = []
    begin = 0
    for end in np.maximum(ends, 0).tolist():
        if end > begin:
            spans.append((int(character[begin]), int(character[end - 1]) + 1))
        else:
            here = spans[-1][1] if spans else 0
            spans.append((here, here))
        begin = end
    return spans


def _matched(pieces: Sequence[bytes], text: str) -> list[Span]:
    """As `by_bytes`, by the longest runs of characters that the tokens and the text share."""
    spelt = [piece.decode("utf-8", errors="replace") for piece in pieces]
    matcher = difflib.SequenceMatcher(None, "".join(spelt), text, autojunk=False)
    place = np.zeros(sum(map(len, spelt)) + 1, np.int64)  # in the text, of each character spelt
    for tag, a, b, c, d in matcher.get_opcodes():
        place[a:b] = np.arange(c, d) if tag == "equal" else c
        place[b] = d
    ends = np.cumsum([len(one) for one in spelt], dtype=np.int64)
    starts = ends - [len(one) for one in spelt]
    return [(a, b) for a, b in zip(place[starts].tolist(), place[ends].tolist(), strict=True)]


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
