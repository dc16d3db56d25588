"""The objects of a JSON file, one at a time: of a list, of a list in an object, or one after
another.

    for here, row in json_rows(decode(file, "squad.json"), "squad.json"):
        ...

Rows are the elements of a list at the top level, or of the list under "data" of an object there
(SQuAD, many exports); any other object at the top level is a row itself, so that JSON lines and
objects over several lines are read too. No more than one row is held, and a block of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.data.reading.rows import Row, check_doubled, json_reason, object_of
from jaxlm.data.reading.text import MAX_DOCUMENT_CHARS, too_long

ROWS = "data"
_SPACE = " \t\r\n"
# Characters at the end of what is read in which an error may come from the cut: half a number, a
# literal or an escape. A text may be cut anywhere.
_CUT, _CUT_TEXT = 16, "Unterminated string"


def json_rows(pieces: Iterable[str], where: str, most: int = MAX_DOCUMENT_CHARS) -> Iterator[Row]:
    """("file:line", row) of each. Raises `UserError` for what is not JSON, or not an object."""
    text = _Text(iter(pieces), where, most)
    while text.peek():
        if text.peek() == "[":
            yield from _elements(text)
        elif text.peek() == "{":
            yield from _object(text)
        else:
            here = text.here
            yield _row(here, text.value())
        if text.peek() == ",":  # objects with commas between them, without the brackets
            text.take(",")


def _elements(text: _Text) -> Iterator[Row]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        text.peek()
        here = text.here
        yield _row(here, text.value())
        if text.peek() != ",":
            break
        text.take(",")
    text.take("]")


def _object(text: _Text) -> Iterator[Row]:
    """The object as a row, or the rows of its list ROWS, where it has one."""
    here, row, streamed = text.here, dict[str, Any](), False
    text.take("{")
    while text.peek() != "}":
        key = text.value()
        if not isinstance(key, str):
            raise text.error("a key is not text")
        if key in row:
            raise UserError(f"{here}: names the column {key!r} twice; rename or remove one")
        text.take(":")
        if key == ROWS and text.peek() == "[":
            streamed = True
            yield from _elements(text)
        else:
            row[key] = text.value()
        if text.peek() != ",":
            break
        text.take(",")
    text.take("}")
    if not streamed:
        yield here, row


def _row(here: str, value: Any) -> Row:
    if not isinstance(value, Mapping):
        kind = type(value).__name__
        raise UserError(f"{here}: holds a {kind}; a row must be a JSON object of named columns")
    check_doubled(value, here)
    return here, value


class _Text:
    """A text that comes in pieces, from which values are taken at the front."""

    def __init__(self, pieces: Iterator[str], where: str, most: int) -> None:
        self.pieces, self.where, self.most = pieces, where, most
        self.buffer, self.position, self.line, self.ended = "", 0, 1, False
        self.decode = json.JSONDecoder(object_pairs_hook=object_of).raw_decode

    @property
    def here(self) -> str:
        return f"{self.where}:{self.line}"

    def error(self, why: str) -> UserError:
        return UserError(f"{self.here}: not JSON ({why}); fix the file")

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self.position < len(self.buffer):
                char = self.buffer[self.position]
                if char not in _SPACE:
                    return char
                self.line += char == "\n"
                self.position += 1
            if not self._more():
                return ""

    def take(self, char: str) -> None:
        if self.peek() != char:
            found = self.peek()
            raise self.error(f"{char} is expected, not {found!r}" if found else "the file is cut")
        self.position += 1

    def value(self) -> Any:
        """The next value, wherever the pieces are cut."""
        self.peek()
        wanted = 0
        while True:
            try:
                value, end = self.decode(self.buffer, self.position)
                if end < len(self.buffer) or self.ended:
                    break
            except json.JSONDecodeError as error:
                if self.ended or not self._is_cut(error):
                    self.line += self.buffer.count("\n", self.position, error.pos)
                    raise self.error(error.msg) from None
            except (ValueError, RecursionError) as error:
                raise self.error(json_reason(error)) from None
            wanted = max(wanted * 2, 1)  # pieces: twice as many each time, so that time is linear
            for _ in range(wanted):
                self._more()
        self.line += self.buffer.count("\n", self.position, end)
        self.position = end
        return value

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the error may be gone with more of the text."""
        return error.msg.startswith(_CUT_TEXT) or error.pos > len(self.buffer) - _CUT

    def _more(self) -> bool:
        """Reads a piece, and drops what was taken; whether there was one."""
        piece = next(self.pieces, None)
        if piece is None:
            self.ended = True
            return False
        self.buffer = self.buffer[self.position :] + piece
        self.position = 0
        if len(self.buffer) - len(piece) > self.most:
            raise too_long(f"{self.here}: a row", self.most, "split the text in it")
        return True
