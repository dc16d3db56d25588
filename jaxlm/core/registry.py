"""Parts: configs that YAML names by `type:`, and how a name is found.

The base class of a kind of part says where its parts are:

    @dataclass(frozen=True, kw_only=True)
    class Objective(Config):
        kind: ClassVar = Kind("objectives", "objective", folder="jaxlm.objectives")

A type is one of three things:

    type: focal                    a file of the folder (jaxlm/objectives/focal.py) with one class
                                   of the kind; in a file of several, a class says its type itself:
                                   `class AdamW(Adam, type="adamw")`
    type: focal                    an entry point of an installed package, in the group that has the
                                   kind's name (jaxlm.objectives)
    type: my_losses.focal:Focal    a class of a module: installed, or in the working folder

So a new part is one file, and nothing in jaxlm is edited. `my_losses.py` in the working folder:

    @dataclass(frozen=True, kw_only=True)
    class Focal(CausalLM):
        \"\"\"Predict the next token; tokens that are known well count less.\"\"\"

        gamma: float = field(2.0, "how much less", ge=0)

        def loss(self, model, batch, *, key, cache):
            ...

with `objective: {type: "my_losses:Focal", gamma: 1.5}`; or, for everyone who installs the package,
in its pyproject.toml

    [project.entry-points."jaxlm.objectives"]
    focal = "my_losses:Focal"

A module is imported only when a config names one of its parts. For `module:Class` the working
folder is added to the end of `sys.path`, so nothing in it hides an installed module. `type_name`
gives the name that config.yaml keeps: any part that was found is found again from there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxlm.core.errors import UserError, few, shown, suggest
from jaxlm.core.kinds import Kind, files, installed, package_of
from jaxlm.core.listing import listed
from jaxlm.core.other_names import OTHER_TYPES

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_NAME = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"


def is_base(cls: type) -> bool:
    """Whether a kind of part is stated at this class."""
    return isinstance(cls.__dict__.get("kind"), Kind)


def kind_of(base: type) -> Kind:
    """The kind that is stated at this class, or at one that it is derived from."""
    kind: Kind = base.kind  # type: ignore[attr-defined]
    return kind


def base_of(cls: type) -> type | None:
    """The class that states the kind of a part; None for a config that is not a part."""
    return next((base for base in cls.__mro__ if is_base(base)), None)


def find(base: type, name: Any) -> type:
    """The part of the kind of `base` that `type: name` means. Raises `UserError`."""
    if not isinstance(name, str):
        raise UserError(f"unknown type {shown(name)}; {suggest(str(name), names(base))}")
    kind = kind_of(base)
    if ":" in name:
        return _checked(import_class(name), name, base)
    if builtin := _builtin(base, name):
        return _only(name, [_path(cls) for cls in builtin], builtin)
    points = [point for point in installed(kind) if point.name == name]
    if points:
        point = _only(name, [f"{point.value} of {package_of(point)}" for point in points], points)
        origin = f"{name} of {package_of(point)}"
        try:
            cls = import_class(_named(point))
        except UserError as error:
            raise UserError(f"{origin}: {error}") from error
        return _checked(cls, origin, base)
    ours = OTHER_TYPES.get(name)
    fix = f"jaxlm's key is {ours}" if ours else suggest(name, names(base))
    raise UserError(f"unknown type {shown(name)}; {fix}")


def names(base: type) -> list[str]:
    """The types of a kind that need no module before them: built-in ones and entry points."""
    kind = kind_of(base)
    builtin = {part.name for part in listed(files(kind.folder), kind.folder, base.__name__)}
    return sorted(builtin | {point.name for point in installed(kind)})


def type_name(cls: type) -> str | None:
    """The `type:` of a part; None for a config that is not a part."""
    kind: Kind | None = getattr(cls, "kind", None)
    if kind is None or is_base(cls) or cls.__dict__.get("abstract"):
        return None
    module = cls.__module__
    if module == kind.folder or module.rpartition(".")[0] == kind.folder:
        return cls.__dict__.get("type_") or module.rpartition(".")[2]
    return next((p.name for p in installed(kind) if _named(p) == _path(cls)), _path(cls))


def check_importable(cls: type) -> None:
    """Raises `UserError` for a part that another process could not import by its name."""
    if "<locals>" in cls.__qualname__ or cls.__module__ == "__main__":
        place = "a function" if "<locals>" in cls.__qualname__ else "a script or a notebook"
        raise UserError(
            f"type: the class {cls.__qualname__} is defined in {place}, where a resumed run does "
            "not find it; move it to the top level of a module"
        )


def import_class(name: str, noun: str = "class") -> Any:
    """The class, or other `noun`, that "package.module:Class" names. Raises `UserError`."""
    module_name, _, attribute = name.partition(":")
    if not re.fullmatch(f"{_NAME}:{_NAME}", name) or module_name == "__main__":
        example = "Class" if noun == "class" else noun
        raise UserError(f"{shown(name)} names no {noun}; write package.module:{example}")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    found: Any = _import(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            kept = vars(found).items()
            classes = [n for n, c in kept if getattr(c, "__module__", "") == module_name]
            raise UserError(f"{module_name} has no {noun} {attribute}; {suggest(part, classes)}")
        found = getattr(found, part)
    return found


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _not_imported(name, error) from error
        raise UserError(
            f"there is no module {error.name}; run from the folder that it is in, add that to "
            "PYTHONPATH, or install its package"
        ) from None
    except Exception as error:
        raise _not_imported(name, error) from error


def _not_imported(name: str, error: Exception) -> UserError:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return UserError(
        f"{name} cannot be imported: {type(error).__name__}: {text} ({last.filename}:{last.lineno})"
        "; correct the module"
    )


def _builtin(base: type, name: str) -> list[type]:
    """The parts of this type in the kind's folder; only files that may hold one are imported."""
    kind = kind_of(base)
    found: list[type] = []
    for module_name, path in files(kind.folder).items():
        own = module_name.rpartition(".")[2] == name
        if own or f'type="{name}"' in path.read_text(encoding="utf-8"):
            module = importlib.import_module(module_name)
            found += [cls for cls in parts_of(module, base) if type_name(cls) == name]
    return found


def parts_of(module: ModuleType, base: type) -> list[type]:
    """The parts that a module defines, of the kind of `base`."""
    classes = [cls for cls in vars(module).values() if isinstance(cls, type)]
    own = [cls for cls in classes if issubclass(cls, base) and cls.__module__ == module.__name__]
    return [cls for cls in own if cls is not base and not cls.__dict__.get("abstract")]


def _checked(cls: Any, name: str, base: type) -> type:
    """`cls`, where it is a part of the kind of `base`. Raises `UserError`."""
    if not isinstance(cls, type) or not issubclass(cls, base):
        noun = kind_of(base).noun
        raise UserError(f"{name} is not of the kind {noun}; derive it from {_path(base)}")
    if cls is base or cls.__dict__.get("abstract"):
        raise UserError(f"{name} is a base class; name a class that is derived from it")
    if "__dataclass_params__" not in cls.__dict__:
        above = "@dataclass(frozen=True, kw_only=True)"
        raise UserError(f"{name} is not a dataclass; write {above} above the class")
    return cls


def _only(name: str, paths: list[str], found: Sequence[Any]) -> Any:
    if len(found) > 1:
        raise UserError(f"{name} is the type of several parts: {few(paths)}; rename one of them")
    return found[0]


def _path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _named(point: EntryPoint) -> str:
    return point.value.partition("[")[0].strip()
