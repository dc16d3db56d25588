"""Strict, typed configuration: frozen dataclasses <-> YAML.

A config class is a frozen keyword dataclass that derives from `Config`; every field says what it
means:

    @dataclass(frozen=True, kw_only=True)
    class AdamW(OptimizerConfig):
        beta1: float = field(0.9, "decay of the first moment", ge=0, lt=1)

`load("run.yaml", RunConfig, ["optimizer.beta1=0.95"])` reads the YAML, its `include:` files and the
dotted overrides, and returns the config together with where each value came from. A mistake is one
line: the path of the key, the file and line it stands in, and the nearest valid key.

A base class with a `registry` (see `jaxlm/types.py`) is polymorphic: its YAML carries `type:`, the
name of the class to build. The registry holds "module:Class" strings, so a part is imported only
when it is used.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import importlib
import json
import operator
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union

import yaml

C = TypeVar("C", bound="Config")
REQUIRED = dataclasses.MISSING


class UserError(ValueError):
    """A user's mistake: one line that says what is wrong, where, and what to do instead."""


class ConfigError(UserError):
    """A mistake in a configuration."""


def field(
    default: Any,
    doc: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """A dataclass field with its meaning and the range of its values (or of each element).

    `default` is a value, `REQUIRED`, or a class or function that makes the default.
    """
    metadata = {"doc": doc, "bounds": {"ge": ge, "gt": gt, "le": le, "lt": lt}}
    if callable(default) and default is not REQUIRED:
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def key_of(spec: dataclasses.Field) -> str:
    """The YAML key of a field: its name, less the underscore that keeps a Python keyword legal."""
    return spec.name.removesuffix("_")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The base of every config. `registry` is set on a polymorphic base: {type: "module:Class"}."""

    registry: ClassVar[dict[str, str] | None] = None
    default_type: ClassVar[str | None] = None

    def validate(self) -> None:
        """Checks that no single field can make; raises `UserError`, to which the path is added."""

    def replace(self: C, **changes: Any) -> C:
        return dataclasses.replace(self, **changes)


# --------------------------------------------------------------------------------------------- YAML


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
            here = _join(path, key)
            old = mine.get(key)
            if isinstance(old, dict) and isinstance(value, Mapping) and _same_type(old, value):
                self._merge(old, value, here, marks)
            elif isinstance(old, list) and isinstance(value, Mapping) and _are_numbers(value):
                elements = {str(i): element for i, element in enumerate(old)}
                for index in value:
                    if index not in elements:
                        mend = f"it has {len(old)}, counted from 0"
                        raise _error(_join(here, index), marks, "no such element of the list", mend)
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
    text = _read_text(path, asker)
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
            marks[_join(here, i)] = Mark(f"{path}:{child.start_mark.line + 1}")
            items.append(_plain(child, _join(here, i), path, marks, above, loader))
        return items
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    layer, own = Layer({}), Layer({})
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        line = Mark(f"{path}:{key_node.start_mark.line + 1}")
        if key in own.values:
            raise ConfigError(f"{line}: {_join(here, key)} is set twice; remove one")
        if key == "include":
            for name in _included(loader.construct_object(value_node, deep=True), line):
                layer.merge(_read_file(path.parent / name, above, f"{line}: "))
            continue
        own.marks[key] = line
        inner: dict[str, Mark] = {}
        own.values[key] = _plain(value_node, _join(here, key), path, inner, above, loader)
        prefix = len(here) + 1 if here else 0
        own.marks.update({p[prefix:]: m for p, m in inner.items()})
    layer.merge(own)
    marks.update({_join(here, p): m for p, m in layer.marks.items() if p})
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
            yield from _paths(inner, _join(path, key))


# --------------------------------------------------------------------------------- values -> config


@dataclasses.dataclass(frozen=True)
class Resolved(typing.Generic[C]):
    """A config and, for each dotted path that was set, where its value came from."""

    config: C
    marks: dict[str, Mark]


def load(
    path: str | Path, cls: type[C], overrides: Iterable[str] = (), base: Layer | None = None
) -> Resolved[C]:
    """The config of a YAML file under dotted overrides; `base` is a layer below the file."""
    layer = Layer({})
    if base is not None:
        layer.merge(base)
    layer.merge(read_yaml(path))
    layer.merge(read_overrides(overrides))
    return Resolved(parse(cls, layer.values, layer.marks), layer.marks)


def parse(cls: type[C], values: Mapping[str, Any], marks: Mapping[str, Mark] | None = None) -> C:
    """A config of class `cls` from plain values, strictly: every key known, every type right."""
    return _build(cls, values, "", dict(marks or {}))


def _build(cls: type[Config], values: Any, path: str, marks: Mapping[str, Mark]) -> Any:
    if isinstance(values, cls):
        return values
    if not isinstance(values, Mapping):
        raise _error(
            path,
            marks,
            f"expected a mapping of keys, got {values!r}",
            "write key: value lines below it",
        )
    values = dict(values)
    cls = _resolve_type(cls, values, path, marks)
    hints = typing.get_type_hints(cls)
    known = {key_of(f): f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise _error(_join(path, key), marks, "unknown key", suggest(key, known))
    arguments = {}
    for name, spec in known.items():
        here = _join(path, name)
        if name in values:
            arguments[spec.name] = _value(hints[spec.name], values[name], here, marks)
            _check_bounds(arguments[spec.name], spec, here, marks)
        elif spec.default is REQUIRED and spec.default_factory is REQUIRED:
            raise _error(here, marks, "is required", f"set it to {spec.metadata['doc']}")
    config = cls(**arguments)
    try:
        config.validate()
    except ConfigError:
        raise
    except UserError as error:
        raise ConfigError(f"{_where(path, marks)}{path + ': ' if path else ''}{error}") from None
    return config


def _resolve_type(
    cls: type[Config], values: dict, path: str, marks: Mapping[str, Mark]
) -> type[Config]:
    """The class that `type:` names, for a polymorphic base; `cls` itself for a plain config."""
    registry = cls.__dict__.get("registry")
    if registry is None:
        if "type" in values and values["type"] == type_name(cls):
            del values["type"]  # a concrete class whose type is stated all the same
        return cls
    name, here = values.pop("type", cls.default_type), _join(path, "type")
    if name is None:
        mend = f"choose one of {', '.join(sorted(registry))}"
        raise _error(here, marks, "is required", mend)
    if str(name) not in registry:
        raise _error(here, marks, f"unknown type {name!r}", suggest(str(name), registry))
    return import_name(registry[name])


def import_name(name: str) -> Any:
    """The object that "module:attribute" names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _value(hint: Any, value: Any, path: str, marks: Mapping[str, Mark]) -> Any:
    """`value` as the type `hint` asks for; raises where it is another."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        choices = [a for a in args if a is not type(None)]
        for choice in choices[:-1]:
            try:
                return _value(choice, value, path, marks)
            except ConfigError:
                continue
        return _value(choices[-1], value, path, marks)
    if origin is Literal:
        if not any(value == a and type(value) is type(a) for a in args):
            mend = suggest(str(value), [str(a) for a in args])
            raise _error(path, marks, f"unknown value {value!r}", mend)
        return value
    if origin is tuple:
        return _tuple(args, value, path, marks)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _error(
                path, marks, f"expected a mapping, got {value!r}", "write key: value lines below it"
            )
        return {str(k): _value(args[1], v, _join(path, str(k)), marks) for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, Config):
        return _build(hint, value, path, marks)
    return _scalar(hint, value, path, marks)


def _tuple(args: tuple, value: Any, path: str, marks: Mapping[str, Mark]) -> tuple:
    """A list as a tuple[X, ...] (a value that is no list is a list of one) or a tuple[X, Y]."""
    if not isinstance(value, (list, tuple)):
        if args[-1] is ...:
            return (_value(args[0], value, path, marks),)
        value = [value]
    if args[-1] is ...:
        args = (args[0],) * len(value)
    elif len(args) != len(value):
        what = f"expected a list of {len(args)} values, got {len(value)}"
        raise _error(path, marks, what, f"write {len(args)} values in brackets")
    return tuple(
        _value(hint, v, _join(path, i), marks)
        for i, (hint, v) in enumerate(zip(args, value, strict=True))
    )


def _scalar(hint: type, value: Any, path: str, marks: Mapping[str, Mark]) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    name = names.get(hint, hint.__name__)
    mend = f"write {name}"
    if hint is int and isinstance(value, float) and value.is_integer():
        mend = f"write {int(value)}"
    elif hint is str and isinstance(value, (bool, int, float)):
        mend = "put it in quotes"
    raise _error(path, marks, f"expected {name}, got {value!r}", mend)


def _check_bounds(
    value: Any, spec: dataclasses.Field, path: str, marks: Mapping[str, Mark]
) -> None:
    if isinstance(value, (tuple, dict)):
        for key, item in _items(value).items():
            _check_bounds(item, spec, _join(path, key), marks)
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if value != value:
        raise _error(path, marks, "is not a number (nan)", "set a finite number")
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    for name, bound in spec.metadata.get("bounds", {}).items():
        if bound is not None and not getattr(operator, name)(value, bound):
            raise _error(path, marks, f"{value!r} is out of range", f"set it {signs[name]} {bound}")


def suggest(word: str, known: Iterable[str]) -> str:
    """The mend for an unknown word: the nearest known ones, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _where(path: str, marks: Mapping[str, Mark]) -> str:
    """The "file:line: " of the nearest enclosing path that was set, or nothing."""
    while path and path not in marks:
        path = path.rpartition(".")[0]
    return f"{marks[path]}: " if path in marks else ""


def _error(path: str, marks: Mapping[str, Mark], what: str, mend: str) -> ConfigError:
    return ConfigError(f"{_where(path, marks)}{path or 'config'}: {what}; {mend}")


# --------------------------------------------------------------------------------- config -> values


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain values, `type:` first where the class is one of a registry's."""
    values: dict[str, Any] = {}
    name = type_name(type(config))
    if name is not None:
        values["type"] = name
    for spec in dataclasses.fields(config):
        values[key_of(spec)] = _to_plain(getattr(config, spec.name))
    return values


def type_name(cls: type) -> str | None:
    """The name that `cls` has in its base's registry, None where it belongs to no registry."""
    for base in cls.__mro__[1:]:
        for name, target in (base.__dict__.get("registry") or {}).items():
            if target == f"{cls.__module__}:{cls.__name__}":
                return name
    return None


def _to_plain(value: Any) -> Any:
    if isinstance(value, Config):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_to_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _to_plain(v) for k, v in value.items()}
    return value


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `load` reads back to an equal config."""
    values = to_dict(config)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def sha256(config: Config) -> str:
    """SHA-256 of the values in canonical JSON: whatever file or order they came from."""
    values = _canonical(to_dict(config))
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """1.0 as 1: a default that the code spells as 1 and a file's 1.0 are the same config."""
    if isinstance(value, dict):
        return {key: _canonical(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Setting(typing.NamedTuple):
    """One leaf of a resolved config, as `jaxlm config show` prints it."""

    path: str
    value: Any
    meaning: str
    source: str  # "run.yaml:12", "command line" or "default"


def settings(resolved: Resolved) -> list[Setting]:
    """Every leaf field with its meaning and where its value came from."""
    return [
        Setting(path, value, meaning, _source(path, resolved.marks))
        for path, value, meaning in describe(resolved.config)
    ]


def _source(path: str, marks: Mapping[str, Mark]) -> str:
    if path in marks:
        return str(marks[path])
    inner = [str(mark) for place, mark in marks.items() if place.startswith(path + ".")]
    return inner[-1] if inner else "default"


def describe(config: Config, path: str = "") -> Iterable[tuple[str, Any, str]]:
    """(dotted path, value, meaning) of every leaf field, depth first."""
    name = type_name(type(config))
    if name is not None:
        yield _join(path, "type"), name, (type(config).__doc__ or "").strip().split("\n")[0]
    for spec in dataclasses.fields(config):
        yield from _describe(
            getattr(config, spec.name), _join(path, key_of(spec)), spec.metadata["doc"]
        )


def _describe(value: Any, path: str, doc: str) -> Iterable[tuple[str, Any, str]]:
    if isinstance(value, Config):
        yield from describe(value, path)
    elif isinstance(value, (tuple, dict)) and any(
        isinstance(v, Config) for v in _items(value).values()
    ):
        for key, item in _items(value).items():
            yield from _describe(item, _join(path, key), doc)
    else:
        yield path, _to_plain(value), doc


def _items(value: tuple | dict) -> dict:
    return value if isinstance(value, dict) else {str(i): v for i, v in enumerate(value)}


def diff(old: Config, new: Config) -> list[str]:
    """The leaves in which two configs differ, as "path: old -> new" lines."""
    missing = object()
    a = {path: value for path, value, _ in describe(old)}
    b = {path: value for path, value, _ in describe(new)}
    show = lambda v: "absent" if v is missing else repr(v)  # noqa: E731
    return [
        f"{path}: {show(a.get(path, missing))} -> {show(b.get(path, missing))}"
        for path in dict.fromkeys([*a, *b])
        if a.get(path, missing) != b.get(path, missing)
    ]
