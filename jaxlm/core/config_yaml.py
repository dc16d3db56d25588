"""YAML as layers of plain values, each with the place it was written in.

    layer = read_yaml("run.yaml")                         # with its include: files below it
    layer.merge(read_overrides(["optimizer.beta1=0.95"]))
    layer.values["optimizer"]["beta1"], layer.marks["optimizer.beta1"]     # 0.95, command line

`jaxlm.core.config` makes typed configs of them. `jaxlm.core.yaml_text` says what a text may hold.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from jaxlm.core.errors import ConfigError, UserError, is_one_line, printable, shown, suggest
from jaxlm.core.yaml_text import (
    MAX_DEPTH,
    MAX_FILES,
    MAX_NODES,
    MERGE,
    compose,
    dump_yaml,
    read_text,
    scalar,
    too_deep,
)

__all__ = [
    "ConfigError",
    "Layer",
    "Mark",
    "UserError",
    "dump_yaml",
    "error_at",
    "is_one_line",
    "join",
    "read_overrides",
    "read_yaml",
    "read_yaml_text",
    "suggest",
    "where",
]


class Mark(typing.NamedTuple):
    """The origin of a value: "run.yaml:12", "command line", "runs/a/config.yaml"."""

    source: str

    def __str__(self) -> str:
        return self.source


COMMAND_LINE = Mark("command line")


@dataclasses.dataclass
class Layer:
    """A tree of plain values and, for each dotted path in it, where it came from."""

    values: dict[str, Any]
    marks: dict[str, Mark] = dataclasses.field(default_factory=dict)

    def merge(self, other: Layer) -> None:
        """Lays `other` over this layer. A mapping whose `type` changes is replaced, not merged.

        A mapping over a list changes the elements that its keys count ("sources.0.weight=2"). A
        list of one mapping needs no number ("sources.weight=2").
        """
        marks = dict(other.marks)
        if _same_type(self.values, other.values):
            self._merge(self.values, other.values, "", marks)
        else:
            self.values, self.marks = copy.deepcopy(other.values), {}
        self.marks.update(marks)

    def _merge(self, mine: dict, theirs: Mapping, path: str, marks: dict[str, Mark]) -> None:
        for key, value in theirs.items():
            here = join(path, key)
            old = mine.get(key)
            if isinstance(old, dict) and isinstance(value, Mapping) and _same_type(old, value):
                self._merge(old, value, here, marks)
            elif _is_in_single(old, value):
                for place in [p for p in marks if p.startswith(f"{here}.")]:
                    marks[f"{here}.0{place.removeprefix(here)}"] = marks.pop(place)
                self._merge(mine[key][0], value, join(here, 0), marks)
            elif isinstance(old, list) and isinstance(value, Mapping) and _are_numbers(value):
                elements = {str(i): element for i, element in enumerate(old)}
                for index in value:
                    if index not in elements:
                        fix = f"it has {len(old)}, counted from 0"
                        raise error_at(join(here, index), marks, "no such element of the list", fix)
                self._merge(elements, value, here, marks)
                mine[key] = list(elements.values())
            else:
                self.marks = {p: m for p, m in self.marks.items() if not p.startswith(here + ".")}
                mine[key] = copy.deepcopy(value)


def _same_type(old: Mapping, new: Mapping) -> bool:
    return "type" not in new or "type" not in old or new["type"] == old["type"]


def _is_in_single(old: Any, value: Any) -> bool:
    """Whether a mapping changes the one mapping of a list."""
    if not isinstance(old, list) or len(old) != 1 or not isinstance(value, Mapping):
        return False
    return isinstance(old[0], dict) and not _are_numbers(value) and _same_type(old[0], value)


def _are_numbers(keys: Iterable[str]) -> bool:
    return bool(keys) and all(key.isdecimal() for key in keys)


def read_yaml(path: str | Path) -> Layer:
    """Reads a YAML file with its `include:` entries (relative to the file, earlier ones lowest).

    Any mapping may have an `include:`. The mapping's own keys override those that it includes,
    and those of a merge key (`<<: *base`).
    """
    return _read_file(Path(path), (), _Budget())


@dataclasses.dataclass
class _Budget:
    """The number of values that one config may still hold, over all of its files."""

    nodes: int = MAX_NODES
    files: int = MAX_FILES

    def spend(self, source: str, nodes: int) -> None:
        self.nodes -= nodes
        if self.nodes < 0:
            what = f"expands to more than {MAX_NODES:,} values"
            raise ConfigError(f"{source}: {what}; write fewer, or fewer aliases of them")


def _read_file(path: Path, above: tuple[Path, ...], budget: _Budget, asker: str = "") -> Layer:
    """`above`: the files that led here by `include:`; `asker`: the last one's "file:line: "."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _siblings(path), n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise ConfigError(f"{asker}{printable(str(path))}: no such config file; {hint}") from None
    except OSError as error:
        fix = f"{(error.strerror or 'cannot be read').lower()}; name a YAML file"
        raise ConfigError(f"{asker}{printable(str(path))}: {fix}") from None
    except ConfigError as error:
        raise ConfigError(f"{asker}{error}") from None
    if path.resolve() in above:
        raise ConfigError(f"{asker}{path} includes itself; remove the circular include")
    budget.files -= 1
    if budget.files < 0:
        raise ConfigError(f"{asker}more than {MAX_FILES} files are included; include fewer")
    return read_yaml_text(text, path, above, budget, asker)


def read_yaml_text(
    text: str,
    path: Path,
    above: tuple[Path, ...] = (),
    budget: _Budget | None = None,
    asker: str = "",
) -> Layer:
    """Like `read_yaml`, for a text that is, or was, in the file `path`."""
    layer = Layer({}, {"": Mark(str(path))})
    node = compose(text, str(path), secret=bool(asker))
    if node is None:
        return layer
    if not isinstance(node, yaml.MappingNode):
        kind = "list" if isinstance(node, yaml.SequenceNode) else "single value"
        raise ConfigError(f"{asker}{path}: holds a {kind}; a config is a mapping of keys")
    reader = _Reader(path, (*above, path.resolve()), budget or _Budget())
    layer.values = reader.value(node, "", (), layer.marks)
    return layer


def _siblings(path: Path) -> list[str]:
    return os.listdir(path.parent) if os.access(path.parent, os.R_OK | os.X_OK) else []


_Pairs = dict[str, tuple[yaml.Node, yaml.Node]]


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Makes plain values of the nodes of one file, or of one override (`path` is None)."""

    path: Path | None
    above: tuple[Path, ...]
    budget: _Budget

    def line(self, node: yaml.Node) -> Mark:
        if self.path is None:
            return COMMAND_LINE
        return Mark(f"{self.path}:{node.start_mark.line + 1}")

    def value(self, node: yaml.Node, here: str, outer: tuple, marks: dict[str, Mark]) -> Any:
        """The value of a node at the dotted path `here`, inside the nodes `outer`.

        Notes the line of every key in `marks`, and resolves `include:` and merge keys.
        """
        self.enter(node, outer)
        at = str(self.line(node))
        if isinstance(node, yaml.ScalarNode):
            return scalar(node, f"{at}: {printable(here)}" if here else at)
        kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
        if node.tag != f"tag:yaml.org,2002:{kind}":
            raise ConfigError(f"{at}: the tag {shown(node.tag)} is not known; remove it")
        outer = (*outer, node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, here, outer, marks)
        items = []
        for i, child in enumerate(node.value):
            marks[join(here, i)] = self.line(child)
            items.append(self.value(child, join(here, i), outer, marks))
        return items

    def enter(self, node: yaml.Node, outer: tuple) -> None:
        """Raises `ConfigError` where nodes have no end: aliases of themselves, depth, number."""
        self.budget.spend(str(self.line(node)), 1)
        if any(node is other for other in outer):
            raise ConfigError(f"{self.line(node)}: an alias holds itself; write the values out")
        if len(outer) > MAX_DEPTH:
            raise too_deep(str(self.line(node)))

    def mapping(
        self, node: yaml.MappingNode, here: str, outer: tuple, marks: dict[str, Mark]
    ) -> dict[str, Any]:
        pairs = self.pairs(node, here, outer)
        layer, own = Layer({}), Layer({})
        if "include" in pairs:
            key_node, value_node = pairs.pop("include")
            line = self.line(key_node)
            if self.path is None:
                raise ConfigError(f"{line}: include: works in a file only; write it there")
            names = self.value(value_node, "include", outer, {})
            for name in _included(names, line):
                file = self.path.parent / name
                layer.merge(_read_file(file, self.above, self.budget, f"{line}: "))
        for key, (key_node, value_node) in pairs.items():
            own.marks[key] = self.line(key_node)
            inner: dict[str, Mark] = {}
            own.values[key] = self.value(value_node, join(here, key), outer, inner)
            prefix = len(here) + 1 if here else 0
            own.marks.update({p[prefix:]: m for p, m in inner.items()})
        if layer.values:
            layer.merge(own)
        else:
            layer = own
        marks.update({join(here, p): m for p, m in layer.marks.items() if p})
        return layer.values

    def pairs(self, node: yaml.MappingNode, here: str, outer: tuple) -> _Pairs:
        """The keys and values of a mapping over those that its merge keys bring, first come first.

        As in YAML 1.1, a key replaces the whole value that a merge key brings.
        """
        own: _Pairs = {}
        merged: _Pairs = {}
        inside = f"{printable(here)}: " if here else ""
        for key_node, value_node in node.value:
            line = self.line(key_node)
            if key_node.tag == MERGE:
                for base in self.bases(value_node, outer):
                    for key, pair in self.pairs(base, here, (*outer, base)).items():
                        merged.setdefault(key, pair)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{line}: {inside}a key is a list or a mapping; write a name")
            key = str(scalar(key_node, f"{line}: key")) if key_node.style else key_node.value
            if len(key) > 200:
                raise ConfigError(f"{line}: {inside}a key of {len(key):,} characters; write a name")
            if key in own:
                raise ConfigError(f"{line}: {printable(join(here, key))} is set twice; remove one")
            own[key] = key_node, value_node
        return merged | own

    def bases(self, node: yaml.Node, outer: tuple) -> list[yaml.MappingNode]:
        """The mappings that the value of a merge key names."""
        found: list[yaml.MappingNode] = []
        for base in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            self.enter(base, outer)
            if not isinstance(base, yaml.MappingNode):
                what = "<< takes a mapping or a list of them"
                raise ConfigError(f"{self.line(base)}: {what}; write an alias such as <<: *base")
            self.budget.spend(str(self.line(base)), len(base.value))
            found.append(base)
        return found


def _included(names: Any, line: Mark) -> list[str]:
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        what = f"include: expected file names, got {shown(names)}"
        raise ConfigError(f"{line}: {what}; name YAML files")
    return names


def read_overrides(overrides: Iterable[str]) -> Layer:
    """`["optimizer.learning_rate=1e-3"]` as a layer; the right side is read as YAML."""
    layer = Layer({})
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            raise ConfigError(f"override {shown(text)}: write it as key.sub=value")
        if key.count(".") >= MAX_DEPTH:
            raise too_deep(f"override {shown(text)}")
        plain = _override(value, key, f"override {shown(text)}")
        tree: Any = plain
        for part in reversed(key.split(".")):
            tree = {part: tree}
        layer.merge(Layer(tree, {path: COMMAND_LINE for path in _paths(plain, key)}))
    return layer


def _override(value: str, key: str, name: str) -> Any:
    try:
        node = compose(value, name)
    except ConfigError:
        raise ConfigError(f"{name}: {shown(value)} is not YAML; quote it") from None
    return None if node is None else _Reader(None, (), _Budget()).value(node, key, (), {})


def _paths(value: Any, path: str) -> Iterable[str]:
    """`path` and the paths of everything below it."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, join(path, key))


# -------------------------------------------------------------------------- words for what is wrong


def join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def where(path: str, marks: Mapping[str, Mark]) -> str:
    """The "file:line: " of the nearest enclosing path that was set, or nothing.

    A mapping that only dotted overrides made has no place of its own: it is theirs.
    """
    while path and path not in marks:
        inner = next((mark for p, mark in marks.items() if p.startswith(f"{path}.")), None)
        if inner is not None:
            return f"{inner}: "
        path = path.rpartition(".")[0]
    return f"{marks[path]}: " if path in marks else ""


def error_at(path: str, marks: Mapping[str, Mark], what: str, fix: str) -> ConfigError:
    return ConfigError(f"{where(path, marks)}{printable(path or 'config')}: {what}; {fix}")
