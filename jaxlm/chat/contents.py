"""The places of messages' contents in the text that a template makes of them.

    leaves = leaves_of(messages)             # contents, parts of contents, arguments of tools
    places = find(text, leaves, render)      # [(start, end) or None, ...]

The messages are rendered once more with private characters around each content: where the text is
equal without them, they say exactly where each is. A template that cuts or compares contents gives
another text; then contents are looked for in their order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxlm.chat.template import REASONING

Span = tuple[int, int]
Path = tuple[str | int, ...]

# A mark is BEGIN or END and a character that numbers the leaf, all of them in private planes.
BEGIN, END, FIRST = "\U000ffff0", "\U000ffff1", 0x100000
_MARK = re.compile(f"[{BEGIN}{END}][\U00100000-\U0010fffd]")
MOST = 0xFFFD


@dataclass(frozen=True)
class Leaf:
    """A text of a message. part: its number in a list of parts; None: it is not of one."""

    message: int
    path: Path
    text: str
    part: int | None = None


def leaves_of(messages: Sequence[Mapping[str, Any]]) -> list[Leaf]:
    """The texts of the messages that somebody wrote, blank ones left out, in order."""
    found: list[Leaf] = []
    for number, message in enumerate(messages):
        for key in (*REASONING, "content", "tool_calls"):
            if key in message:
                found += _leaves(message[key], number, (number, key))
    return [leaf for leaf in found if leaf.text.strip()]


def _leaves(value: Any, number: int, path: Path) -> list[Leaf]:
    if isinstance(value, str):
        return [Leaf(number, path, value, path[2] if _is_part(path) else None)]  # type: ignore[arg-type]
    items: Any = ()
    if isinstance(value, Mapping):
        items = ((k, v) for k, v in value.items() if k not in ("type", "id", "name", "role"))
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    return [leaf for key, item in items for leaf in _leaves(item, number, (*path, key))]


def _is_part(path: Path) -> bool:
    return len(path) == 4 and path[1] == "content" and path[3] == "text"


def find(
    text: str,
    messages: Sequence[Mapping[str, Any]],
    leaves: Sequence[Leaf],
    render: Callable[[Sequence[Mapping[str, Any]]], str | None],
) -> list[Span | None]:
    """The characters of each leaf in the text, without white space at its ends; None: not found.

    render: the text of other messages; None where the template refuses them.
    """
    if not leaves:
        return []
    marked = None
    if len(leaves) < MOST and not _MARK.search(text):
        marked = render(_marked(messages, leaves))
    if marked is not None and _MARK.sub("", marked) == text:
        return _read_marks(marked, text, leaves)
    return _look_for(text, leaves)


def _marked(
    messages: Sequence[Mapping[str, Any]], leaves: Sequence[Leaf]
) -> Sequence[Mapping[str, Any]]:
    marks = {
        leaf.path: f"{BEGIN}{chr(FIRST + number)}{leaf.text.strip()}{END}{chr(FIRST + number)}"
        for number, leaf in enumerate(leaves)
    }

    def changed(value: Any, path: Path) -> Any:
        if isinstance(value, str) and path in marks:
            core = value.strip()
            start = value.index(core)
            return value[:start] + marks[path] + value[start + len(core) :]
        if isinstance(value, Mapping):
            return {key: changed(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [changed(item, (*path, key)) for key, item in enumerate(value)]
        return value

    return [changed(message, (number,)) for number, message in enumerate(messages)]


def _read_marks(marked: str, text: str, leaves: Sequence[Leaf]) -> list[Span | None]:
    """The characters within each pair of marks; a template may write a part of a leaf alone, such
    as what follows "</think>", and then one mark is left.
    """
    begins: dict[int, int] = {}  # a text may be written twice: its first place counts
    ends: dict[int, int] = {}
    removed = 0
    for match in _MARK.finditer(marked):
        marks = begins if match[0][0] == BEGIN else ends
        marks.setdefault(ord(match[0][1]) - FIRST, match.start() - removed)
        removed += len(match[0])
    found: list[Span | None] = []
    for number, leaf in enumerate(leaves):
        begin, end, core = begins.get(number), ends.get(number), leaf.text.strip()
        if begin is None and end is not None:
            begin = end - len(os.path.commonprefix([text[:end][::-1], core[::-1]]))
        elif end is None and begin is not None:
            end = begin + len(os.path.commonprefix([text[begin:], core]))
        found.append(None if begin is None or end is None else (begin, end))
    return found


def _look_for(text: str, leaves: Sequence[Leaf]) -> list[Span | None]:
    found: list[Span | None] = []
    place = 0
    for leaf in leaves:
        core = leaf.text.strip()
        start = text.find(core, place)
        found.append(None if start < 0 else (start, start + len(core)))
        place = place if start < 0 else start + len(core)
    return found
