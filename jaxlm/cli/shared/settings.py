"""The settings of a config as people read them: what was set, the choices, the defaults.

    train.steps: 375    # quickstart.yaml:21; optimizer steps of the whole run; null: from epochs

A setting is one line in a file or a pipe. On a terminal it has colours, and a long comment is below
it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import textwrap
import types
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import click

from jaxlm.core import registry
from jaxlm.core.config import Config, Resolved, Setting, key_of, settings
from jaxlm.core.config_yaml import join

SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
DEFAULT = "default"
WIDEST = 44  # columns of "key: value", to which the comments are aligned
INDENT = "    "  # before a comment that does not fit on its setting's line, on a terminal
LEAST = 30  # columns of such a comment


class Line(typing.NamedTuple):
    """A setting with what else may be written for it: "one of a, b", ">= 1" or nothing."""

    setting: Setting
    allowed: str
    chosen: bool  # one of a few names


def lines_of(resolved: Resolved) -> list[Line]:
    """Every setting of a config, in the order of the config's fields."""
    allowed = dict(_allowed(resolved.config, ""))
    return [Line(s, *allowed.get(s.path, ("", False))) for s in settings(resolved)]


def print_settings(
    lines: Sequence[Line], *, defaults: bool = False, file: IO[str] | None = None
) -> None:
    """Prints each setting that is set, and where; choices' values; with `defaults` all the rest."""
    page = _Page(file or sys.stdout)
    own = [line for line in lines if line.setting.source != DEFAULT]
    sources = _short_sources(line.setting.source for line in own)
    page.head("What is set")
    page.write(own, lambda line: (sources[line.setting.source], line.setting.meaning))
    page.head("Choices")
    page.write([line for line in lines if line.chosen], lambda line: (line.allowed,))
    rest = [line for line in lines if line.setting.source == DEFAULT]
    if defaults:
        page.head("Defaults")
        page.write(rest, lambda line: (line.setting.meaning, line.allowed))
    else:
        page.say(f"# {len(rest)} other settings have their defaults: add --all to see them")
    for path, name in _short_files(_files(own)).items():
        if name != path:
            page.say(f"# {name} is {path}")


class _Page:
    """Lines of "key: value    # comment", on a terminal or in a file."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        terminal = file.isatty()
        self.coloured = terminal and "NO_COLOR" not in os.environ
        self.width = shutil.get_terminal_size((100, 24)).columns if terminal else None

    def say(self, text: str, **style: Any) -> None:
        print(click.style(text, **style) if self.coloured else text, file=self.file)

    def head(self, name: str) -> None:
        self.say(f"# {name}", bold=True)

    def write(
        self, lines: Sequence[Line], comments: typing.Callable[[Line], Iterable[str]]
    ) -> None:
        texts = [f"{line.setting.path}: {_plain(line.setting.value)}" for line in lines]
        column = min(WIDEST, max(map(len, texts), default=0)) + 2
        for line, text in zip(lines, texts, strict=True):
            said = "; ".join(filter(None, comments(line)))
            self._line(line.setting.path, text, said, column)
        self.say("")

    def _line(self, key: str, text: str, comment: str, column: int) -> None:
        lead = text.ljust(column) if len(text) < column else f"{text}  "
        rows = [f"# {comment}" if comment else ""]
        if self.width is not None and len(lead) + len(rows[0]) > self.width:
            room = max(LEAST, self.width - len(INDENT) - 2)
            parts = textwrap.wrap(comment, room, break_on_hyphens=False)
            rows = ["", *(f"{INDENT}# {part}" for part in parts)]
        if self.coloured:
            lead = click.style(key, fg="cyan") + lead[len(key) :]
            rows = [row and click.style(row, dim=True) for row in rows]
        print("\n".join([(lead + rows[0]).rstrip(), *rows[1:]]), file=self.file)


def _plain(value: Any) -> str:
    if isinstance(value, str) and value and "\n" not in value:
        return value
    return json.dumps(value, ensure_ascii=False)


# --------------------------------------------------------------------------------- what is allowed


def _allowed(value: Any, path: str) -> Iterator[tuple[str, tuple[str, bool]]]:
    """(dotted path, what may be written, whether it is one of a few names) of the settings below a
    value that has such limits.
    """
    if isinstance(value, (tuple, list)) and len(value) == 1 and isinstance(value[0], Config):
        value = value[0]  # is written without its list
    if isinstance(value, (tuple, list)):
        value = {str(i): item for i, item in enumerate(value)}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _allowed(item, join(path, key))
    if not isinstance(value, Config):
        return
    names = _types(type(value))
    if names:
        yield join(path, "type"), (f"one of {', '.join(names)}", True)
    hints = typing.get_type_hints(type(value))
    for spec in dataclasses.fields(value):
        here = join(path, key_of(spec))
        literals = _literals(hints[spec.name])
        bounds = {n: b for n, b in spec.metadata.get("bounds", {}).items() if b is not None}
        if literals:
            yield here, (f"one of {', '.join(map(_plain, literals))}", True)
        elif bounds:
            yield here, (" and ".join(f"{SIGNS[n]} {b}" for n, b in bounds.items()), False)
        yield from _allowed(getattr(value, spec.name), here)


def _types(cls: type[Config]) -> list[str]:
    """The names that `type:` may have in the place of a config of this class."""
    base = registry.base_of(cls)
    return [] if base is None else registry.names(base)


def _literals(hint: Any) -> list[Any]:
    """The values of a `Literal`, with null where that may be written too."""
    if typing.get_origin(hint) is Literal:
        return list(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        args = typing.get_args(hint)
        found = [v for arg in args for v in _literals(arg)]
        return [*found, None] if found and type(None) in args else found
    return []


# ------------------------------------------------------------------------------------ where it was


def _short_sources(sources: Iterable[str]) -> dict[str, str]:
    """ "configs/smoke/lstm.yaml:3" as "lstm.yaml:3", where only one file has that name."""
    sources = list(dict.fromkeys(sources))
    files = _short_files({_split(source)[0] for source in sources})
    return {s: files[_split(s)[0]] + _split(s)[1] for s in sources}


def _files(lines: Iterable[Line]) -> list[str]:
    """The files that settings come from."""
    return sorted({_split(s.source)[0] for s, *_ in lines if _split(s.source)[1]})


def _short_files(paths: Iterable[str]) -> dict[str, str]:
    paths = list(paths)
    names = Counter(Path(path).name for path in paths)
    return {path: Path(path).name if names[Path(path).name] == 1 else path for path in paths}


def _split(source: str) -> tuple[str, str]:
    """("run.yaml", ":12") of "run.yaml:12"; ("default", "") of "default"."""
    path, colon, line = source.rpartition(":")
    return (path, colon + line) if colon and line.isdecimal() else (source, "")
