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

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from jaxlm.core import registry
from jaxlm.core.config import UserError, type_name
from jaxlm.data.formats.base import Fit, Format, Placed, Record, Sample
from jaxlm.data.formats.shapes import Bridge, Shape
from jaxlm.data.formats.unrecognised import gives_others, none_fits, several


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
        return self.described({})

    def described(self, names: Mapping[str, str]) -> str:
        """The format and the columns that it reads; names: what the file calls them."""
        listed = ", ".join(names.get(name, name) for name in self.fit.columns)
        columns = f" ({listed})" if listed else ""
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
        raise none_fits(sample, found, given, wanted)
    shapes = {name: found[name][0].shape for name in fitting}
    ways = _ways(shapes, {*wanted}) or _ways(shapes, {*wanted} - {*sample.columns})
    if not ways and sample.problem is not None:
        raise sample.problem
    if not ways:
        raise gives_others(sample, shapes, wanted, all_formats())
    kept = [name for name in ways if not any(_within(fitting, name, other) for other in ways)]
    kept = [name for name in kept if ways[name][1] is None] or kept
    made = [Recognised(*found[name], *ways[name], sample.answered) for name in kept]
    if len(made) > 1 and not _ask_the_same(made, sample, wanted):
        raise several(sample, kept, fitting)
    return made[0]


def _ask_the_same(made: Sequence[Recognised], sample: Sample, wanted: Sequence[str]) -> bool:
    """Whether records to predict for have the same wanted columns in each of these formats. A row
    that is wrong in one of them is not compared.
    """
    if sample.answered:
        return False
    found = [dict(_asked(one, sample, wanted)) for one in made]
    places = [place for place in found[0] if all(place in one for one in found)]
    return bool(places) and all(one[p] == found[0][p] for one in found for p in places)


def _asked(
    found: Recognised, sample: Sample, wanted: Sequence[str]
) -> Iterator[tuple[str, list[Any]]]:
    """(place, values of the wanted columns) of a sample's records, without rows that are wrong."""
    lines = ((str(number), line) for number, line in enumerate(sample.lines))
    items: Iterator[Placed] = lines if found.format.reads == "lines" else iter(sample.rows)
    for place, record in found.format.records(items, sample, lambda error: None):
        with suppress(UserError):
            yield place, [one.get(name) for one in found.convert(record) for name in wanted]


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
