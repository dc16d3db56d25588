"""A kind of part, and where its parts are: files of a folder, and entry points of packages.

    kind = Kind("objectives", "objective", folder="jaxlm.objectives")
    files(kind.folder)      # {"jaxlm.objectives.causal_lm": Path(...), ...}
    installed(kind)         # the entry points of the group "jaxlm.objectives"

No part is imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of part: its name in the plural and in the singular, and where its parts are.

    folder: the package (or the module) of the built-in parts. default: the type that is meant where
    none is given.
    """

    name: str
    noun: str
    folder: str
    default: str | None = None

    @property
    def group(self) -> str:
        """The entry points of packages that bring parts of this kind."""
        return f"jaxlm.{self.name}"


def files(folder: str) -> dict[str, Path]:
    """{module: file} of a package, not of the packages in it; of a module, its own file."""
    spec = importlib.util.find_spec(folder)
    assert spec is not None, folder
    if spec.submodule_search_locations is None:
        return {folder: Path(spec.origin or "")}
    paths = [p for place in spec.submodule_search_locations for p in Path(place).glob("[!_]*.py")]
    return {f"{folder}.{path.stem}": path for path in sorted(paths)}


def installed(kind: Kind) -> tuple[EntryPoint, ...]:
    """The entry points of a kind, which are read once for each search path."""
    return tuple(_entry_points(tuple(sys.path)).select(group=kind.group))


def package_of(point: EntryPoint) -> str:
    """The name in errors of the package that an entry point belongs to."""
    return f"package {point.dist.name}" if point.dist is not None else "an installed package"


@cache
def _entry_points(path: tuple[str, ...]) -> Any:
    """Those of all groups: to read them takes as long for one group as for all."""
    from importlib.metadata import entry_points  # which --help does without

    return entry_points()
