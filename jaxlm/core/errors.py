"""Errors of the user, and the words that every such line is made of.

    raise UserError(f"classes: unknown label {shown(label)}; {suggest(label, classes)}")

A line says what is wrong, where, and how to fix it. Lists of names are cut to a `few` with a count,
and values are `shown` cut, so that one line stays one line.
"""

from __future__ import annotations

import difflib
import os
import reprlib
import unicodedata
from collections.abc import Iterable
from typing import Any

from jaxlm.core.exit_codes import MISTAKE

MOST_NAMES = 10  # in a list
MOST_CHARACTERS = 120  # in a name or a key


class UserError(ValueError):
    """A user's mistake: one line that says what is wrong, where, and what to do instead."""

    code = MISTAKE  # what the process exits with


class MissingColumn(UserError):
    """Records lack a column that is read."""

    names: tuple[str, ...] = ()  # the column, and its other names

    @classmethod
    def of(cls, message: str, *names: str) -> MissingColumn:
        error = cls(message)  # a process that reads files pickles it
        error.names = names
        return error


class ConfigError(UserError):
    """A mistake in a configuration."""


def few(names: Iterable[Any], most: int = MOST_NAMES) -> str:
    """The first names with commas between them, and the number of those that are left out.

    few(["a", "b", "c"], 2) == "a, b and 1 more"
    """
    names = [printable(str(name)) for name in names]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def suggest(word: str, known: Iterable[str]) -> str:
    """A fix for an unknown word: the nearest known words, or a few of all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word[:MOST_CHARACTERS], known, n=2, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(map(printable, near))}?"
    return f"choose one of {few(known)}"


def shown(value: Any) -> str:
    """A value as an error shows it: its repr in one line, cut where it is long."""
    return _SHORT.repr(value)


def printable(text: str) -> str:
    """A name as an error shows it: in one line, cut where it is long."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[: MOST_CHARACTERS - 20]}... ({len(text):,} characters)"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def wrong_path(text: str) -> str | None:
    """Why no file can have this name; None where one can."""
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        return f"{shown(text)} is not UTF-8 text"
    if not data or b"\0" in data:
        return f"{shown(text)} is not a name"
    longest = max(len(part) for part in data.split(b"/"))
    if longest > 255:
        return f"{shown(text)} has a part of {longest:,} bytes, and a name has at most 255"
    return f"{len(data):,} bytes, and a path has at most 4,095" if len(data) > 4095 else None


def looked_from(path: Any) -> str:
    """A note for an error about a file: the folder that a relative path starts at."""
    text = str(path)
    return "" if text.startswith(("/", "~")) else f", looked from {os.getcwd()}"


def one_line(error: Exception) -> str:
    """The first line of what a library says, at most 200 characters."""
    return str(error).strip().split("\n")[0][:200]


def is_one_line(char: str) -> bool:
    """Whether a character neither ends a line nor controls a terminal, and can be written."""
    return unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")


class _Short(reprlib.Repr):
    """repr() of at most some six elements and 80 characters each."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 6
        self.maxlevel = 4
        self.maxstring = self.maxother = 80

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to print an integer of more than 4,300 digits."""
        digits = int(x.bit_length() * 0.30103) + 1
        return repr(x) if digits <= 40 else f"a whole number of about {digits:,} digits"


_SHORT = _Short()
