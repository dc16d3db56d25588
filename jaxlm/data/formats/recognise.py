"""The format of a file: found by its columns, or named and checked.

    found = recognise(sample, wanted=("messages",))
    found.name, found.fit.columns                   # "alpaca", ("instruction", "output", "input")

Formats count that fit and give the wanted columns. Of these, one that reads only a
part of another's columns is not meant: prompt and completion, where there is a label too. What can
give the columns as it is goes before what must be converted. For records to predict for, any of the
formats that read the same in the wanted columns will do. The file's own columns count where no
format gives what is wanted.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from jaxlm.core import registry
from jaxlm.core.config import UserError, type_name
from jaxlm.core.errors import few
from jaxlm.data.formats.base import Fit, Format, Placed, Record, Sample
from jaxlm.data.formats.shapes import Bridge, Shape

KEY = "data.source.format"


@dataclass(frozen=True)
class Recognised:
    """A format, how a file fits it, and what makes another shape of its records."""

    format: Format
    fit: Fit
    shape: Shape
    bridge: Bridge | None = None
    answered: bool = True

    @property
    def name(self) -> str:
        return type_name(type(self.format)) or type(self.format).__name__

    def __str__(self) -> str:
        columns = f" ({', '.join(self.fit.columns)})" if self.fit.columns else ""
        return f"{self.name}{columns}" + (f", {self.fit.note}" if self.fit.note else "")

    def convert(self, record: Record) -> list[Record]:
        if self.bridge is None:
            return [record]
        return [{**record, **made} for made in self.bridge.convert(record, answered=self.answered)]


def all_formats() -> dict[str, Format]:
    """{name: format with its defaults}: built-in ones, and those of installed packages."""
    return dict(_formats(tuple(sys.path)))


@cache
def _formats(path: tuple[str, ...]) -> dict[str, Format]:
    """Those that are found from a search path, once: it takes longer than to recognise a file."""
    return {name: registry.find(Format, name)() for name in registry.names(Format)}


def format_called(name: str) -> Format:
    """The format of this name, or of a class (package.module:Class). Raises `UserError`."""
    found = registry.find(Format, name)()
    assert isinstance(found, Format)
    return found


def recognise(
    sample: Sample, wanted: Sequence[str] = (), given: Format | None = None
) -> Recognised:
    """The format of a file; `wanted` are the columns that its records must have. Raises
    `UserError` where none fits, or several.
    """
    formats = all_formats() if given is None else {_name(given): given}
    found = {name: (one, one.fit(sample)) for name, one in formats.items()}
    if given is not None and given.reads == "lines" and sample.lines:  # its errors have a line
        found = {name: (one, Fit(fit.columns)) for name, (one, fit) in found.items()}
    fitting = {name: fit for name, (one, fit) in found.items() if fit and not one.as_it_is}
    if not fitting and (given is not None or (wanted and {*wanted} <= {*sample.columns})):
        fitting = {name: fit for name, (one, fit) in found.items() if fit and one.as_it_is}
    if not fitting:
        raise _none_fits(sample, found, given)
    shapes = {name: found[name][0].shape for name in fitting}
    ways = _ways(shapes, {*wanted}) or _ways(shapes, {*wanted} - {*sample.columns})
    if not ways and sample.problem is not None:
        raise sample.problem
    if not ways:
        raise _gives_others(sample, shapes, wanted)
    kept = [name for name in ways if not any(_within(fitting, name, other) for other in ways)]
    kept = [name for name in kept if ways[name][1] is None] or kept
    made = [Recognised(*found[name], *ways[name], sample.answered) for name in kept]
    if len(made) > 1 and not _ask_the_same(made, sample, wanted):
        raise _several(sample, kept, fitting)
    return made[0]


def _ask_the_same(made: Sequence[Recognised], sample: Sample, wanted: Sequence[str]) -> bool:
    """Whether records to predict for have the same wanted columns in each of these formats."""
    if sample.answered:
        return False
    first, *others = ([*_asked(one, sample, wanted)] for one in made)
    return bool(first) and all(other == first for other in others)


def _asked(found: Recognised, sample: Sample, wanted: Sequence[str]) -> Iterator[list[Any]]:
    """The values of the wanted columns of a sample's records, without rows that are wrong."""
    lines = ((str(number), line) for number, line in enumerate(sample.lines))
    items: Iterator[Placed] = lines if found.format.reads == "lines" else iter(sample.rows)
    for _, record in found.format.records(items, sample, lambda error: None):
        with suppress(UserError):
            yield from ([one.get(name) for name in wanted] for one in found.convert(record))


def _name(given: Format) -> str:
    return type_name(type(given)) or type(given).__name__


def _ways(shapes: dict[str, Shape], wanted: set[str]) -> dict[str, tuple[Shape, Bridge | None]]:
    """{format: its way to the wanted columns}, without those that have none."""
    found = {name: _way(shape, wanted) for name, shape in shapes.items()}
    return {name: way for name, way in found.items() if way is not None}


def _way(shape: Shape, wanted: set[str]) -> tuple[Shape, Bridge | None] | None:
    """(shape, bridge to it) that gives the wanted columns from a format's records; None: no way."""
    if wanted <= {*shape.every}:
        return shape, None
    others = (
        (bridge.to, bridge)
        for bridge in shape.bridges()
        if wanted <= {*bridge.to.every, *shape.every}
    )
    return next(others, None)


def _within(fits: dict[str, Fit], name: str, other: str) -> bool:
    return {*fits[name].columns} < {*fits[other].columns}


# ------------------------------------------------------------------------------------------ errors


def seen(sample: Sample) -> str:
    """The contents of a file, for an error."""
    if sample.columns:
        return f"the columns {few(sample.columns)}"
    return "lines of text" if sample.lines else "no rows"


def _several(sample: Sample, names: Sequence[str], fits: dict[str, Fit]) -> UserError:
    listed = " and ".join(f"{name} ({', '.join(fits[name].columns)})" for name in names)
    return UserError(
        f"{sample.name}: has {seen(sample)}, and the formats {listed} fit; choose one: "
        f"{KEY}={names[0]}"
    )


def _none_fits(
    sample: Sample, found: dict[str, tuple[Format, Fit]], given: Format | None
) -> UserError:
    if not sample.columns and not sample.lines:
        return UserError(f"{sample.name}: holds no rows; name a file with some")
    if given is None:
        reads = "rows" if sample.columns else "lines"
        known = found.items()
        found = {n: one for n, one in known if one[0].reads == reads and not one[0].as_it_is}
    name = max(found, key=lambda name: _nearness(found[name][1], sample))
    lacks = few(found[name][1].missing)
    if given is not None:
        what = f"is not of the format {name}, which lacks {lacks} here"
        fix = f"remove {KEY}, or name another one"
    else:
        what = f"no format fits; the nearest is {name}, which lacks {lacks}"
        fix = f"set {KEY}"
    first = found[name][1].missing[0].partition(" or ")[0]
    if sample.columns and " " not in first:
        near = difflib.get_close_matches(first, sample.columns, 1, 0.6) or ["COLUMN"]
        fix = f"say which column that is, as data.source.columns={{{first}: {near[0]}}}, or {fix}"
    return UserError(f"{sample.name}: has {seen(sample)}: {what}; {fix}")


def _nearness(fit: Fit, sample: Sample) -> float:
    """The nearness of a file to a format that does not fit: columns found, less those missing."""
    near = 0.0
    for missing in fit.missing:
        names = missing.replace(" or ", "|").split("|")
        if any(" " in name for name in names):  # not of columns, but of a shape
            near -= 2
            continue
        close = [difflib.get_close_matches(name, sample.columns, 1, 0.75) for name in names]
        near += 0.5 if any(close) else -0.5
    return len(fit.columns) + near


def _gives_others(sample: Sample, shapes: dict[str, Shape], wanted: Sequence[str]) -> UserError:
    gives = few(f"{name} gives {' and '.join(shape.every)}" for name, shape in shapes.items())
    others = sorted(_giving(wanted))
    fix = f"formats that give them: {few(others)}" if others else "name a file that has them"
    return UserError(
        f"{sample.name}: has {seen(sample)}: {gives}, and the task reads {' and '.join(wanted)}; "
        f"{fix}"
    )


def _giving(wanted: Sequence[str]) -> Iterator[str]:
    return (name for name, one in all_formats().items() if {*wanted} <= {*one.shape.every})
