"""Checks of the texts of a launch file, before they are used.

    check_names(config, marks)    # ConfigError: "slurm.yaml:4: partition: has the character ..."

A name is one line that is not empty: control characters and line separators in it would become
lines of a job, of a script or of a terminal. The name of a folder has at most 255 bytes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from jaxlm.core.config import Config, Mark, UserError, key_of
from jaxlm.core.config_yaml import error_at, is_one_line, join
from jaxlm.core.errors import shown

MAX_BYTES = 255  # of one part of a path, on every file system that is used
MAX_VALUE = 100_000  # bytes of a variable's value: Linux starts no program with one over 131072
MAX_TEXT = 4096  # bytes of a whole name or path: PATH_MAX


def check_names(config: Config, marks: Mapping[str, Mark], several: tuple[str, ...] = ()) -> None:
    """Raises `ConfigError` for a text that is not a name. `several`: fields with many lines."""
    for spec in dataclasses.fields(config):
        key = key_of(spec)
        for path, text in _texts(key, getattr(config, spec.name)):
            problem = _bad_lines(text) if key in several else bad_name(text)
            if problem:
                raise error_at(path, marks, *problem)


def bad_name(text: str) -> tuple[str, str] | None:
    """(what is wrong, how to fix it) where `text` is not one line; None where it is."""
    if not text:
        return "is empty", "write a name, or leave the key out"
    bad = next((char for char in text if not is_one_line(char)), None)
    if bad is not None:
        return f"has the character {ascii(bad)}, which is not allowed in a name", "remove it"
    size = len(text.encode())
    if size > MAX_TEXT:
        return f"has {size} bytes", f"write at most {MAX_TEXT} bytes"
    return None


def check_run_dir(run_dir: str) -> None:
    """Raises `UserError` if a folder cannot have that name."""
    problem = bad_name(run_dir)
    for part in PurePosixPath(run_dir).parts if problem is None else ():
        size = len(part.encode())
        if size > MAX_BYTES:
            problem = (
                f"has a part of {size} bytes",
                f"write at most {MAX_BYTES} bytes between two /",
            )
    if problem:
        raise UserError(f"run_dir: {problem[0]}; {problem[1]}")


def check_word(key: str, text: str | None, pattern: str, fix: str) -> None:
    """Raises `UserError` if a text does not match: other programs would split it."""
    if text is not None and not re.fullmatch(pattern, text, re.ASCII):
        raise UserError(f"{key}: {shown(text)} has characters that are not allowed; {fix}")


def check_no_option(key: str, text: str | None) -> None:
    """Raises `UserError` if a program would read a name as one of its options."""
    if text is not None and text.startswith("-"):
        raise UserError(
            f"{key}: {shown(text)} would be read as an option; start it with a letter or /"
        )


def check_absolute(key: str, path: str | None) -> None:
    """Raises `UserError` if a folder of other machines is not an absolute path without `..`."""
    if path is None:
        return
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise UserError(
            f"{key}: {shown(path)} is not an absolute path; write one such as /mnt/jaxlm"
        )


def _bad_lines(text: str) -> tuple[str, str] | None:
    """The same as `bad_name`, for a text that may have several lines."""
    bad = next((char for char in text if char not in "\n\t" and not is_one_line(char)), None)
    if bad is not None:
        return f"has the character {ascii(bad)}", "remove it"
    size = len(text.encode())
    return (f"has {size} bytes", f"write at most {MAX_VALUE} bytes") if size > MAX_VALUE else None


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """(dotted path, text) of every text in a value, keys of mappings included."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield path, key
            yield from _texts(join(path, key), item)
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from _texts(join(path, i), item)
