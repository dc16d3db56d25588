"""YAML as layers of plain values, each with the place it was written in.

    layer = read_yaml("run.yaml")                         # with its include: files below it
    layer.merge(read_overrides(["optimizer.beta1=0.95"]))
    layer.values["optimizer"]["beta1"], layer.marks["optimizer.beta1"]     # 0.95, command line

`jaxlm.config` makes typed configs of them. The scalars are those of YAML 1.2.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
import typing
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml


class UserError(ValueError):
    """A user's mistake: one line that says what is wrong, where, and what to do instead."""


class ConfigError(UserError):
    """A mistake in a configuration."""


class Mark(typing.NamedTuple):
    """Where a value came from: "run.yaml:12", "command line", "runs/a/config.yaml"."""

    source: str

    def __str__(self) -> str:
        return self.source


@dataclasses.dataclass
class Layer:
    """A tree of plain values and, for each dotted path in it, where it came from."""

    values: dict[str, Any]
    marks: dict[str, Mark] = dataclasses.field(default_factory=dict)

    def merge(self, other: Layer) -> None:
        """Lays `other` over this layer. A mapping whose `type` changes is replaced, not merged.

        A mapping over a list changes the elements that its keys count ("sources.0.weight=2").
        """
        if _same_type(self.values, other.values):
            self._merge(self.values, other.values, "", other.marks)
        else:
            self.values, self.marks = copy.deepcopy(other.values), {}
        self.marks.update(other.marks)

    def _merge(self, mine: dict, theirs: Mapping, path: str, marks: Mapping[str, Mark]) -> None:
        for key, value in theirs.items():
            here = join(path, key)
            old = mine.get(key)
            if isinstance(old, dict) and isinstance(value, Mapping) and _same_type(old, value):
                self._merge(old, value, here, marks)
            elif isinstance(old, list) and isinstance(value, Mapping) and _are_numbers(value):
                elements = {str(i): element for i, element in enumerate(old)}
                for index in value:
                    if index not in elements:
                        mend = f"it has {len(old)}, counted from 0"
                        raise error_at(
                            join(here, index), marks, "no such element of the list", mend
                        )
                self._merge(elements, value, here, marks)
                mine[key] = list(elements.values())
            else:
                self.marks = {p: m for p, m in self.marks.items() if not p.startswith(here + ".")}
                mine[key] = copy.deepcopy(value)


def _same_type(old: Mapping, new: Mapping) -> bool:
    return "type" not in new or "type" not in old or new["type"] == old["type"]


def _are_numbers(keys: Iterable[str]) -> bool:
    return bool(keys) and all(key.isdecimal() for key in keys)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of a scalar: 1e-3 is a number; `no`, `1:30` and `2024-01-01` are text."""


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        """Text of several lines is written as it is, where YAML can have it so.

        Where a character would end a line of YAML, it is written as an escape.
        """
        style = "|" if "\n" in data else None
        if not all(is_one_line(char) or char in "\n\t" for char in data):
            style = '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
# What other readers of YAML, such as kubectl's, take for true, false or a number.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^[yYnN]$"), list("yYnN"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^[-+]?0o[0-7]+$"), list("-+0"))


_SCALARS = {  # tag: (pattern, the characters it may begin with)
    "bool": (r"true|false|True|False", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][\d_]*)|0x[\da-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\d[\d_]*\.[\d_]*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)"
        r"|\.nan",
        "-+0123456789.",
    ),
}
_OTHERS = (":null", ":merge")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.endswith(_OTHERS)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _first) in _SCALARS.items():
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )


def read_yaml(path: str | Path) -> Layer:
    """Reads a YAML file with its `include:` entries (relative to the file, earlier ones lowest).

    `include:` may stand in any mapping; what the mapping itself says overrides what it includes.
    """
    return _read_file(Path(path), ())


def _read_file(path: Path, above: tuple[Path, ...], asker: str = "") -> Layer:
    """`above`: the files that led here by `include:`; `asker`: the last one's "file:line: "."""
    if path.resolve() in above:
        raise ConfigError(f"{asker}{path} includes itself; remove the circular include")
    return read_yaml_text(_read_text(path, asker), path, above)


def read_yaml_text(text: str, path: Path, above: tuple[Path, ...] = ()) -> Layer:
    """As `read_yaml`, of a text that is, or was, in the file `path`."""
    layer = Layer({}, {"": Mark(str(path))})
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return layer
        value = _plain(node, "", path, layer.marks, (*above, path.resolve()), loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{where}: {problem}; mend the YAML") from None
    except RecursionError:
        raise ConfigError(f"{path}: an alias holds itself; write the values out") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}; a config is a mapping of keys")
    layer.values = value
    return layer


def _read_text(path: Path, asker: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _siblings(path), n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise ConfigError(f"{asker}{path}: no such config file; {hint}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{asker}{path}: not UTF-8 text; a config is a YAML file") from None
    except OSError as error:
        mend = f"{(error.strerror or 'cannot be read').lower()}; name a YAML file"
        raise ConfigError(f"{asker}{path}: {mend}") from None


def _siblings(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []


def _plain(
    node: Any, here: str, path: Path, marks: dict[str, Mark], above: tuple, loader: Any
) -> Any:
    """A YAML node as plain Python values; notes the line of every key and resolves `include:`."""
    if isinstance(node, yaml.SequenceNode):
        items = []
        for i, child in enumerate(node.value):
            marks[join(here, i)] = Mark(f"{path}:{child.start_mark.line + 1}")
            items.append(_plain(child, join(here, i), path, marks, above, loader))
        return items
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    layer, own = Layer({}), Layer({})
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        line = Mark(f"{path}:{key_node.start_mark.line + 1}")
        if key in own.values:
            raise ConfigError(f"{line}: {join(here, key)} is set twice; remove one")
        if key == "include":
            for name in _included(loader.construct_object(value_node, deep=True), line):
                layer.merge(_read_file(path.parent / name, above, f"{line}: "))
            continue
        own.marks[key] = line
        inner: dict[str, Mark] = {}
        own.values[key] = _plain(value_node, join(here, key), path, inner, above, loader)
        prefix = len(here) + 1 if here else 0
        own.marks.update({p[prefix:]: m for p, m in inner.items()})
    layer.merge(own)
    marks.update({join(here, p): m for p, m in layer.marks.items() if p})
    return layer.values


def _included(names: Any, line: Mark) -> list[str]:
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{line}: include: expected file names, got {names!r}; name YAML files")
    return names


def read_overrides(overrides: Iterable[str]) -> Layer:
    """`["optimizer.learning_rate=1e-3"]` as a layer; the right side is read as YAML."""
    layer = Layer({})
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
            raise ConfigError(f"override {text!r}: write it as key.sub=value")
        try:
            plain = yaml.load(value, Loader=_Loader)
        except yaml.YAMLError:
            raise ConfigError(f"override {text!r}: {value!r} is not YAML; quote it") from None
        tree: Any = plain
        for part in reversed(key.split(".")):
            tree = {part: tree}
        layer.merge(Layer(tree, {path: Mark("command line") for path in _paths(plain, key)}))
    return layer


def _paths(value: Any, path: str) -> Iterable[str]:
    """`path` and the paths of all that stands below it."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, join(path, key))


def dump_yaml(*documents: Mapping[str, Any]) -> str:
    """Plain values as YAML that `read_yaml` reads back to the same; several as one stream."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def is_one_line(char: str) -> bool:
    """Whether a character neither ends a line nor controls a terminal, and can be written."""
    return unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")


# -------------------------------------------------------------------------- words for what is wrong


def suggest(word: str, known: Iterable[str]) -> str:
    """The mend for an unknown word: the nearest known ones, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


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


def error_at(path: str, marks: Mapping[str, Mark], what: str, mend: str) -> ConfigError:
    return ConfigError(f"{where(path, marks)}{path or 'config'}: {what}; {mend}")
