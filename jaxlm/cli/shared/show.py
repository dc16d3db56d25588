"""What the command line shows people: the table of a config's settings, generated texts.

Colour and the terminal's own width where there is a terminal; elsewhere plain text of 100 columns.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from jaxlm.core.config import Setting

PLAIN_WIDTH = 100
LEAST_MEANING = 24  # columns of a meaning, which is wrapped; values and origins are cut instead


def print_settings(settings: Iterable[Setting], file: IO[str] | None = None) -> None:
    """Path, value, origin and meaning of every setting, as a table."""
    rows = list(settings)
    console = _console(file)
    short = _short_sources(row.source for row in rows)
    paths = max(len(row.path) for row in rows)
    values = min(22, max(len(_plain(row.value)) for row in rows))
    sources = min(24, max(map(len, short.values())))
    spare = console.width - paths - values - sources - 6 - LEAST_MEANING
    if spare < 0:  # a narrow window: values and origins give way
        values, sources = max(10, values + spare // 2), max(10, sources + spare // 2)
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    cut = {"no_wrap": True, "overflow": "ellipsis"}
    table.add_column("setting", no_wrap=True, overflow="fold")
    table.add_column("value", width=values, **cut)  # type: ignore[arg-type]
    table.add_column("from", width=sources, **cut)  # type: ignore[arg-type]
    table.add_column("meaning", overflow="fold")
    group = ""
    for row in rows:
        head, dot, _ = row.path.partition(".")
        if group and (dot or head != group) and head != group:
            table.add_row()
        group = head if dot else group and head
        own = row.source != "default"
        table.add_row(
            Text(row.path, "cyan"),
            Text(_plain(row.value), "bold" if own else ""),
            Text(short[row.source], "green" if own else "dim"),
            Text(row.meaning, "dim"),
        )
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    lines += [f"{name}: {path}" for path, name in _files(rows).items() if name != path]
    print("\n".join(lines), file=file or sys.stdout)


def print_texts(prompts: Sequence[str], texts: Sequence[str], file: IO[str] | None = None) -> None:
    """Each prompt with its continuation; on a terminal the prompt is bold."""
    console = _console(file)
    if not console.is_terminal:
        divided = f"\n{'-' * 40}\n".join(
            f"{prompt}{text}" for prompt, text in zip(prompts, texts, strict=True)
        )
        print(divided, file=file or sys.stdout)
        return
    from rich.rule import Rule
    from rich.text import Text

    for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
        if number:
            console.print(Rule(style="dim"))
        console.print(Text.assemble((prompt, "bold cyan"), text), soft_wrap=True)


def _console(file: IO[str] | None) -> Any:
    from rich.console import Console

    console = Console(file=file, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console = Console(
            file=file, width=PLAIN_WIDTH, highlight=False, emoji=False, markup=False, no_color=True
        )
    return console


def _plain(value: Any) -> str:
    if isinstance(value, str) and value and "\n" not in value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _short_sources(sources: Iterable[str]) -> dict[str, str]:
    """ "configs/smoke/lstm.yaml:3" as "lstm.yaml:3", where only one file has that name."""
    sources = list(dict.fromkeys(sources))
    files = _short_files({_split(source)[0] for source in sources})
    return {s: files[_split(s)[0]] + _split(s)[1] for s in sources}


def _files(rows: Sequence[Setting]) -> dict[str, str]:
    """{path: the name it is shown by} of the files that settings come from."""
    paths = {_split(row.source)[0] for row in rows if _split(row.source)[1]}
    return _short_files(dict.fromkeys(sorted(paths)))


def _short_files(paths: Iterable[str]) -> dict[str, str]:
    names = Counter(Path(path).name for path in paths)
    return {path: Path(path).name if names[Path(path).name] == 1 else path for path in paths}


def _split(source: str) -> tuple[str, str]:
    """("run.yaml", ":12") of "run.yaml:12"; ("default", "") of what is no place in a file."""
    path, colon, line = source.rpartition(":")
    return (path, colon + line) if colon and line.isdecimal() else (source, "")
