"""The actions `jaxlm data formats` and `jaxlm data convert`."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jaxlm.core.config import UserError, parse
from jaxlm.core.config_yaml import read_overrides
from jaxlm.data.convert import convert
from jaxlm.data.formats.base import Format
from jaxlm.data.formats.recognise import all_formats, format_called
from jaxlm.data.sources.files import Files


def list_formats() -> None:
    """Prints the formats with the columns that they give."""
    formats = all_formats()
    width = 2 + max(map(len, formats))
    for name, form in formats.items():
        doc = (type(form).__doc__ or "").strip().split("\n")[0]
        print(f"{name.ljust(width)}{doc} -> {form.shape.task} ({', '.join(form.shape.every)})")


def show_formats(words: Sequence[str]) -> None:
    """Prints the format of each file, the number of its records, and what they are for."""
    for source in sources_of(words, one_each=True):
        print(described(source))


def convert_files(words: Sequence[str], to: str | None, out: str | None, force: bool) -> None:
    """Writes the records of files to one of another format."""
    if to is None or out is None:
        raise UserError("convert needs --to FORMAT and --out FILE; `jaxlm data formats` lists them")
    form, path = _format_of(to), Path(out)
    others = path.parent.glob(f"{glob.escape(path.name)}.*") if form.separate else ()
    if not force and (taken := next((p for p in (path, *others) if p.exists()), None)):
        raise UserError(f"--out: {taken} exists already; name another file, or add --force")
    (source,) = sources_of(words)
    found = source.recognised((*form.written, *form.keeps))
    counts = Counter[str]()
    number = convert(source, form, path, counts)
    print(f"{found}, {number:,} records{_listed(counts)} -> {path}: {to}")


def _format_of(to: str) -> Format:
    """A format by its name, or with settings: "{type: text, by: line}"."""
    if not to.startswith("{"):
        return format_called(to)
    form: Format = parse(Format, read_overrides([f"to={to}"]).values["to"])
    return form


def described(source: Files) -> str:
    """ "x.jsonl: alpaca (instruction, output), 1,234 records -> chat"."""
    counts, number = Counter[str](), 0
    for unit in source.units():
        number += sum(1 for _ in source.whole(unit, (), counts))
    return f"{source.recognised(())}, {number:,} records{_listed(counts)} -> {source.tasks()}"


def _listed(left_out: Counter[str]) -> str:
    return "".join(f", {n:,} {reason}" for reason, n in left_out.items())


def sources_of(words: Sequence[str], *, one_each: bool = False) -> list[Files]:
    """The source of some files, or one of each that is whole by itself; words with "=" that are no
    files are its settings, as `format=alpaca`.
    """
    settings = [word for word in words if "=" in word and not Path(word).exists()]
    files = [word for word in words if word not in settings]
    if not files:
        raise UserError("FILE is required; `jaxlm data --help` lists the options")
    values = read_overrides(settings).values
    named = [glob.escape(file) if Path(file).exists() else file for file in files]
    whole = parse(Files, {**values, "files": named})
    if not one_each or any(unit.origin.part for unit in whole.units()):
        return [whole]
    return [whole.replace(files=(file,)) for file in named]
