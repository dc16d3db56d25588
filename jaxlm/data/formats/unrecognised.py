"""Errors about a file whose format is not found, and what to set: a column, a format or a header.

raise none_fits(sample, {"alpaca": (Alpaca(), fit), ...}, None, ("messages",))
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from jaxlm.core.config import UserError
from jaxlm.core.errors import MissingColumn, few
from jaxlm.data.formats.base import Fit, Format, Sample
from jaxlm.data.formats.shapes import Shape

Fits = dict[str, tuple[Format, Fit]]


def several(sample: Sample, names: Sequence[str], fits: Mapping[str, Fit]) -> UserError:
    listed = " and ".join(f"{name} ({', '.join(fits[name].columns)})" for name in names)
    return UserError(
        f"{sample.name}: has {_seen(sample)}, and the formats {listed} fit; choose one: "
        f"{sample.setting('format', names[0])}"
    )


def gives_others(
    sample: Sample,
    shapes: Mapping[str, Shape],
    wanted: Sequence[str],
    formats: Mapping[str, Format],
) -> UserError:
    gives = few(f"{name} gives {' and '.join(shape.every)}" for name, shape in shapes.items())
    others = sorted(name for name, one in formats.items() if {*wanted} <= {*one.shape.every})
    fix = f"formats that give them: {few(others)}" if others else "name a file that has them"
    given = {name for shape in shapes.values() for name in shape.every}
    return MissingColumn.of(
        f"{sample.name}: has {_seen(sample)}: {gives}, and the task reads {' and '.join(wanted)}; "
        f"{fix}",
        *(name for name in wanted if name not in given),
    )


def none_fits(
    sample: Sample, found: Fits, given: Format | None, wanted: Sequence[str]
) -> UserError:
    if not sample.columns and not sample.lines:
        return UserError(f"{sample.name}: holds no rows; name a file with some")
    if given is None:
        reads = "rows" if sample.columns else "lines"
        known = found.items()
        found = {n: one for n, one in known if one[0].reads == reads and not one[0].as_it_is}
        if sample.columns and _begins_with_data(sample):
            return _without_header(sample, found, wanted)
        if sample.columns and not any(_is_known(fit, sample) for _, fit in found.values()):
            return _nothing_known(sample, found, wanted)
    name = _nearest(sample, found, wanted)
    fit = found[name][1]
    lacks = few(fit.missing)
    if given is not None:
        what = f"is not of the format {name}, which lacks {lacks} here"
        fix = f"remove {sample.setting('format')}, or name another one"
    else:
        what = f"no format fits; the nearest is {name}, which lacks {lacks}"
        fix = f"set {sample.setting('format')}"
    names = _names(fit.missing[0])
    if sample.columns and " " not in names[0]:
        near = _column_for(names, fit, sample, found)
        columns = sample.setting("columns", f"{{{names[0]}: {near}}}")
        fix = f"say which column that is, as {columns}, or {fix}"
    return MissingColumn.of(f"{sample.name}: has {_seen(sample)}: {what}; {fix}", *names)


def _without_header(sample: Sample, found: Fits, wanted: Sequence[str]) -> UserError:
    nearest, needs = _nearest_by_number(sample, found, wanted)
    names = sample.setting("header", f"[{', '.join(['NAME'] * len(sample.columns))}]")
    return UserError(
        f"{sample.name}: has {_seen(sample)}: no format fits, and the first row looks like data; "
        f"where the file has no header, name its columns, as {names}; the nearest is {nearest}, "
        f"which needs {needs}{_read(wanted)}"
    )


def _nothing_known(sample: Sample, found: Fits, wanted: Sequence[str]) -> UserError:
    columns = ", ".join(f"{name}: COLUMN" for name in wanted or ("text",))
    nearest, lacks = _nearest_by_number(sample, found, wanted)
    return UserError(
        f"{sample.name}: has {_seen(sample)}: no format fits, and none has columns of these names; "
        f"the nearest is {nearest}, which lacks {lacks}; say which column is which, as "
        f"{sample.setting('columns', f'{{{columns}}}')}{_read(wanted)}"
    )


def _seen(sample: Sample) -> str:
    """The contents of a file."""
    if sample.columns:
        return f"the columns {few(sample.called.get(name, name) for name in sample.columns)}"
    return "lines of text" if sample.lines else "no rows"


def _read(wanted: Sequence[str]) -> str:
    """The columns that are to be named."""
    if wanted:
        return f" (the task reads {' and '.join(wanted)})"
    return " (`jaxlm data formats` lists those of each format)"


def _begins_with_data(sample: Sample) -> bool:
    """Whether the names of a table's columns look like values: numbers, sentences, or values of a
    later row.
    """
    rows = [row for _, row in sample.rows]
    if any(not isinstance(value, str | None) for row in rows for value in row.values()):
        return False  # JSON, which has no header
    return any(
        len(name.split()) > 3
        or name.strip().lstrip("-").replace(".", "", 1).isdecimal()
        or any(row.get(name) == name for row in rows)
        for name in sample.columns
    )


def _names(missing: str) -> list[str]:
    """The names of one of `Fit.missing`: ["text", "sentence"] of "text or sentence"."""
    return missing.split(" or ")


def _first_names(missing: str) -> str:
    """The first three names of one of `Fit.missing`, and the number of the others."""
    names = _names(missing)
    rest = f" or {len(names) - 3} more" if len(names) > 3 else ""
    return " or ".join(names[:3]) + rest


def _is_known(fit: Fit, sample: Sample) -> bool:
    """Whether a file has a column of a format, or one that is named nearly so."""
    names = (name for missing in fit.missing for name in _names(missing))
    return bool(fit.columns) or any(_close(name, sample) for name in names)


def _close(name: str, sample: Sample) -> list[str]:
    return difflib.get_close_matches(name, sample.columns, 1, 0.75)


def _column_for(names: Sequence[str], fit: Fit, sample: Sample, found: Fits) -> str:
    """The column that a missing one of these names probably is: one of about this name, or of a
    name that another format has for the same.
    """
    free = [name for name in sample.columns if name not in fit.columns]
    for name in names:
        if near := difflib.get_close_matches(name, free, 1, 0.6):
            return near[0]
    groups = [need.split("|") for one, _ in found.values() for need in getattr(one, "needs", ())]
    same = {other for group in groups if names[0] in group for other in group}
    return next((name for name in free if name in same), "COLUMN")


def _nearest(sample: Sample, found: Fits, wanted: Sequence[str]) -> str:
    """The format that a file is nearest to, of those that give the wanted columns."""
    known = {name: fit for name, (one, fit) in found.items() if _gives(one.shape, {*wanted})}
    known = known or {name: fit for name, (_, fit) in found.items()}
    return max(known, key=lambda name: _nearness(known[name], sample))


def _nearest_by_number(sample: Sample, found: Fits, wanted: Sequence[str]) -> tuple[str, str]:
    """The format that needs the nearest number of columns, of those that give the wanted ones, or a
    text; and these columns. It is for a file that has none by their names.
    """
    asked = {*wanted} or {"text"}
    size = {
        name: len(fit.missing)
        for name, (one, fit) in found.items()
        if asked <= {*one.shape.every} and not any(" " in _names(m)[0] for m in fit.missing)
    }
    number = len(wanted) or len(sample.columns)
    name = (
        min(size, key=lambda n: abs(size[n] - number)) if size else _nearest(sample, found, wanted)
    )
    return name, few(map(_first_names, found[name][1].missing))


def _gives(shape: Shape, wanted: set[str]) -> bool:
    """Whether records of a shape have these columns, as they are or converted."""
    others = ({*bridge.to.every, *shape.every} for bridge in shape.bridges())
    return wanted <= {*shape.every} or any(wanted <= other for other in others)


def _nearness(fit: Fit, sample: Sample) -> float:
    """The nearness of a file to a format that does not fit: columns found, less those missing."""
    near = 0.0
    for missing in fit.missing:
        names = _names(missing)
        if any(" " in name for name in names):  # not of columns, but of a shape
            near -= 2
            continue
        near += 0.5 if any(_close(name, sample) for name in names) else -0.5
    return len(fit.columns) + near
