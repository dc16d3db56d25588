"""Kinds of values of options: each reads a text, or reports what would be right.

@click.option("--top-k", type=WHOLE, metavar="K")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from jaxlm.core.errors import UserError, shown, suggest, wrong_path

LARGEST = 2**31 - 1  # int32, as on devices


class Value(click.ParamType):
    """A kind of values: `read` gives the value of a text, or raises `UserError`."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name, self.read = name, read

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value  # a default
        try:
            return self.read(value)
        except UserError as error:
            self.fail(str(error), param, ctx)


def _number(kind: type, good: Callable[[Any], bool], name: str, limits: str) -> Value:
    """Numbers; `limits` says which are `good`."""
    fix = f"write {name} {limits}"

    def read(text: str) -> Any:
        try:
            value = kind(text) if len(text) <= 300 else float(text)
        except ValueError:
            raise UserError(f"{shown(text)} is not {name}; {fix}") from None
        if not good(value):
            raise UserError(f"{shown(text)} is out of range; {fix}")
        return value

    return Value(name, read)


def _whole(least: int, most: int = LARGEST) -> Value:
    limits = f"from {least} to {most}"
    return _number(int, lambda v: least <= v <= most, "a whole number", limits)


WHOLE = _whole(1)
COUNT = _whole(0)
WORKERS = _whole(1, 1024)  # each is a process
RATIO = _number(float, lambda v: 0 <= v < 3.4e38, "a number", "from 0 to 3.4e38")
POSITIVE = _number(float, lambda v: 0 < v < 3.4e38, "a number", "above 0, up to 3.4e38")
NUMBER = _number(float, lambda v: abs(v) < 3.4e38, "a number", "from -3.4e38 to 3.4e38")
SHARE = _number(float, lambda v: 0 < v <= 1, "a number", "above 0, up to 1")


def _step(text: str) -> int | str:
    """The number of a step, or best."""
    return "best" if text == "best" else COUNT.read(text)


def _path(text: str) -> str:
    """A valid name of a file or a folder."""
    if what := wrong_path(text):
        raise UserError(f"{what}; name a file or a folder")
    return text


def _size(text: str) -> int:
    """Bytes from "5GB", "500MB", "10KB" or a plain number; powers of 1000, as Hugging Face's."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    unit = text[-2:].upper()
    digits = text[:-2] if unit in units else text
    if not digits.isdecimal() or len(digits) > 18 or int(digits) == 0:
        raise UserError(f"{shown(text)} is not a size; write one, such as 500MB or 5GB")
    return int(digits) * units.get(unit, 1)


def _tokens(text: str) -> float:
    """A number of tokens from "300B", "1.5T" or a plain number."""
    units = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    unit = text[-1:].upper()
    try:
        value = float(text[:-1] if unit in units else text) * units.get(unit, 1)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{shown(text)} is not a number of tokens; write one, such as 300B")
    return value


STEP = Value("a step", _step)
PATH = Value("path", _path)
SIZE = Value("size", _size)
TOKENS = Value("tokens", _tokens)


class Choice(click.Choice[str]):
    """One of a few words; a wrong one is reported with the nearest right one."""

    def __init__(self, choices: Sequence[str]) -> None:
        super().__init__(choices)

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if value not in self.choices:
            self.fail(f"{shown(value)} is unknown; {suggest(value, self.choices)}", param, ctx)
        return str(value)
