"""The list of parts, read from the text of their files: it imports none of them.

    for kind in kinds():
        for part in parts(kind):
            print(part.name, part.doc, part.origin)

A class belongs to a kind where its bases, by their names, lead to the kind's base class.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jaxlm.core.errors import UserError, suggest
from jaxlm.core.kinds import Kind, files, installed, package_of

PACKAGE = Path(__file__).parents[1]


class KindOf(NamedTuple):
    """A kind of part and the name of its base class."""

    kind: Kind
    base: str


class ListedPart(NamedTuple):
    """A part: what `type:` names it by, the first line of its docstring, where it comes from."""

    name: str
    doc: str
    origin: str  # "built in", "package my_losses 1.2", "module my_losses.py"


class _Class(NamedTuple):
    module: str
    name: str
    bases: frozenset[str]
    type: str | None
    abstract: bool
    doc: str


# The head of a class at the top level and the first line of its docstring: to parse whole files
# would take half a second.
_HEAD = re.compile(
    r"""^class\s+\w+\(([^()]*)\):[^\S\n]*(?:\#[^\n]*)?\n   # class Focal(CausalLM, type="focal"):
        (?:\s*[rR]?(\"{3}|'{3}|"|')(.*?)(?:\n|\2))?         #     \"\"\"Focal loss.\"\"\"
    """,
    re.M | re.X,
)


def kinds() -> list[KindOf]:
    """Every kind that a class of this package states with `kind: ClassVar = Kind(...)`."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "kind: ClassVar = Kind(" in text:
            found += [k for node in ast.walk(ast.parse(text)) if (k := _stated(node))]
    return sorted(found, key=lambda k: k.kind.name)


def _stated(node: ast.AST) -> KindOf | None:
    for line in node.body if isinstance(node, ast.ClassDef) else []:
        call = line.value if isinstance(line, ast.AnnAssign) else None
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Kind":
            given = [ast.literal_eval(value) for value in call.args]
            named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            return KindOf(Kind(*given, **named), node.name)  # type: ignore[attr-defined]
    return None


def kind_called(name: str) -> KindOf:
    """The kind of this name, in the plural or the singular. Raises `UserError`."""
    found = {word: k for k in kinds() for word in (k.kind.noun, k.kind.name)}
    if name not in found:
        raise UserError(
            f"{name!r} is not a kind of part; {suggest(name, [k.kind.name for k in kinds()])}"
        )
    return found[name]


def parts(of: KindOf, folder: Path | None = None) -> list[ListedPart]:
    """The parts of a kind: built in, of installed packages, and of the modules in `folder`."""
    own = files(of.kind.folder)
    found = [
        ListedPart(part.name, part.doc, "built in") for part in listed(own, of.kind.folder, of.base)
    ]
    taken = {part.name for part in found}
    for point in installed(of.kind):
        hidden = "; hidden by the built-in one: name its class" if point.name in taken else ""
        found.append(ListedPart(point.name, _doc_of(point.value), package_of(point) + hidden))
    if folder is not None:
        modules = {
            path.stem: path for path in sorted(folder.glob("*.py")) if path.stem.isidentifier()
        }
        for part in listed({**own, **modules}, None, of.base, set(modules)):
            found.append(
                ListedPart(part.name, part.doc, f"module {part.name.partition(':')[0]}.py")
            )
    return found


def listed(
    paths: Mapping[str, Path], folder: str | None, base: str, among: set[str] | None = None
) -> Iterator[ListedPart]:
    """The parts in these files whose bases lead to the class called `base`, in alphabetical order.

    folder: the kind's own, where a part is called by its `type=` or its file; None: by
    module:Class. among: the modules whose parts are listed; None: all.
    """
    classes = [found for module, path in paths.items() for found in _classes(module, path)]
    kin = {base}
    while grown := {c.name for c in classes if c.bases & kin} - kin:
        kin |= grown
    found = []
    for cls in classes:
        wanted = among is None or cls.module in among
        if wanted and cls.bases & kin and not cls.abstract:
            stem = cls.module.rpartition(".")[2]
            name = cls.type or stem if folder else f"{cls.module}:{cls.name}"
            found.append(ListedPart(name, cls.doc, ""))
    yield from sorted(found)


@cache
def _classes(module: str, path: Path) -> list[_Class]:
    """The classes of a file that have bases; what Python cannot read has none."""
    try:
        text = path.read_text(encoding="utf-8")
        return [_class(module, found) for found in _HEAD.finditer(text)]
    except (SyntaxError, ValueError, OSError):
        return []


def _class(module: str, head: re.Match[str]) -> _Class:
    (node,) = ast.parse(head[0].partition(":")[0] + ": pass").body
    assert isinstance(node, ast.ClassDef)
    names = (base.attr if isinstance(base, ast.Attribute) else base for base in node.bases)
    words = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    return _Class(
        module,
        node.name,
        frozenset(n if isinstance(n, str) else getattr(n, "id", "") for n in names),
        words.get("type"),
        bool(words.get("abstract")),
        (head[3] or "").strip(),
    )


def _doc_of(value: str) -> str:
    """The first docstring line of the class that an entry point names."""
    module, _, name = value.partition("[")[0].strip().partition(":")
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # the package that the module is in may fail as it likes
        return f"cannot be imported: {type(error).__name__}: {error}"
    if spec is None or spec.origin is None:
        return f"cannot be imported: there is no module {module}"
    classes = _classes(module, Path(spec.origin))
    return next((c.doc for c in classes if c.name == name), "")
