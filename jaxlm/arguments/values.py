"""Readers of options' values: each gives the value of a text, or says what would be one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from jaxlm.errors import shown, wrong_path

LARGEST = 2**31 - 1  # an int32: what devices count with


def _number(
    kind: type, good: Callable[[Any], bool], name: str, limits: str
) -> Callable[[str], Any]:
    """A reader of numbers; `limits` says which are `good`."""

    def read(text: str) -> Any:
        try:
            value = kind(text) if len(text) <= 300 else float(text)
        except ValueError:
            fix = f"write {name} {limits}"
            raise argparse.ArgumentTypeError(f"{shown(text)} is not {name}; {fix}") from None
        if not good(value):
            fix = f"write {name} {limits}"
            raise argparse.ArgumentTypeError(f"{shown(text)} is out of range; {fix}")
        return value

    return read


def _whole(least: int, most: int = LARGEST) -> Callable[[str], Any]:
    limits = f"from {least} to {most}"
    return _number(int, lambda v: least <= v <= most, "a whole number", limits)


whole = _whole(1)
count = _whole(0)
workers = _whole(1, 1024)  # each is a process
ratio = _number(float, lambda v: 0 <= v < 3.4e38, "a number", "from 0 to 3.4e38")
share = _number(float, lambda v: 0 < v <= 1, "a number", "above 0, up to 1")


def path(text: str) -> str:
    """The name of a file or a folder that can exist."""
    if what := wrong_path(text):
        raise argparse.ArgumentTypeError(f"{what}; name a file or a folder")
    return text


def size(text: str) -> int:
    """Bytes from "5GB", "500MB", "10KB" or a plain number; powers of 1000, as Hugging Face's."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    unit = text[-2:].upper()
    digits = text[:-2] if unit in units else text
    if not digits.isdecimal() or len(digits) > 18 or int(digits) == 0:
        what = f"{shown(text)} is not a size"
        raise argparse.ArgumentTypeError(f"{what}; write one, such as 500MB or 5GB")
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
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is not a number of tokens; write one, such as 300B"
        )
    return value
