"""Readers of options' values: each gives the value of a text, or says what would be one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def _number(kind: type, good: Callable[[Any], bool], what: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not good(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}; write one")
        return value

    return read


whole = _number(int, lambda v: v >= 1, "a whole number from 1")
count = _number(int, lambda v: 0 <= v < 2**31, "a whole number from 0")
ratio = _number(float, lambda v: 0 <= v < float("inf"), "a number from 0")
share = _number(float, lambda v: 0 < v <= 1, "a number above 0, up to 1")


def size(text: str) -> int:
    """Bytes from "5GB", "500MB", "10KB" or a plain number; powers of 1000, as Hugging Face's."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    unit = text[-2:].upper()
    digits = text[:-2] if unit in units else text
    if not digits.isdecimal() or int(digits) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write one, such as 500MB or 5GB")
    return int(digits) * units.get(unit, 1)


def tokens(text: str) -> float:
    """A number of tokens from "300B", "1.5T" or a plain number."""
    units = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    unit = text[-1:].upper()
    try:
        value = float(text[:-1] if unit in units else text) * units.get(unit, 1)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens; write one, as in 300B")
    return value
