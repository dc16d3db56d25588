"""Strict, typed configuration: frozen dataclasses <-> YAML.

A config class is a frozen keyword dataclass that derives from `Config`; every field says what it
means:

    @dataclass(frozen=True, kw_only=True)
    class AdamW(OptimizerConfig):
        beta1: float = field(0.9, "decay of the first moment", ge=0, lt=1)

`load("run.yaml", RunConfig, ["optimizer.beta1=0.95"])` reads the YAML, its `include:` files and the
dotted overrides, and returns the config together with where each value came from. A mistake is one
line: the path of the key, its file and line, and the nearest valid key.

A base class with a `kind` is polymorphic: its YAML carries `type:`, which says what part to build.
`jaxlm.core.registry` says what a type may be, and how a part is added.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib
import json
import math
import operator
import re
import struct
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union

from jaxlm.core import registry
from jaxlm.core.config_yaml import (
    COMMAND_LINE,
    Layer,
    Mark,
    error_at,
    join,
    read_overrides,
    read_yaml,
    where,
)
from jaxlm.core.errors import ConfigError, UserError, few, printable, shown, suggest, wrong_path
from jaxlm.core.kinds import Kind
from jaxlm.core.registry import type_name
from jaxlm.core.yaml_text import dump_yaml

__all__ = [
    "REQUIRED",
    "ALLOWED",
    "Affects",
    "Config",
    "ConfigError",
    "Kind",
    "LOGGED",
    "Layer",
    "Mark",
    "Resolved",
    "Setting",
    "UNTRACED",
    "UserError",
    "affects_of",
    "allowed_paths",
    "configs_in",
    "default_of",
    "describe",
    "diff",
    "field",
    "import_name",
    "key_of",
    "load",
    "parse",
    "read_overrides",
    "read_yaml",
    "settings",
    "sha256",
    "shown",
    "suggest",
    "to_dict",
    "to_yaml",
    "traced_values",
    "type_name",
    "where",
    "without",
]

C = TypeVar("C", bound="Config")
REQUIRED = dataclasses.MISSING


Affects = Literal["weights", "host", "schedule", "loop", "program", "run"]

# What a change of a field means: on resume, and for the compiled step. A field of a config that is
# itself a field has the effects of both.
#
#               on resume                          the compiled step is traced from it
#   weights     refused: it would be another run   yes
#   host        refused                            no: the host alone reads it
#   schedule    allowed, and logged                yes
#   loop        allowed, and logged                no
#   program     allowed                            yes
#   run         allowed                            no
ALLOWED: tuple[Affects, ...] = ("program", "run")
LOGGED: tuple[Affects, ...] = ("schedule", "loop")
UNTRACED: tuple[Affects, ...] = ("host", "loop", "run")


def field(
    default: Any,
    doc: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    path: bool = False,
    affects: Affects | None = None,
) -> Any:
    """A dataclass field with its meaning and the range of its values (or of each element).

    `default` is a value, `REQUIRED`, or a class or function that makes the default. A field without
    an upper or lower bound takes what an int32 or a float32 can hold. `path`: the text names a file
    or a folder. `affects`: what a change of the value means; None: what it means for the field of a
    base class that this one replaces, or "weights".
    """
    assert affects is None or affects in typing.get_args(Affects), affects
    bounds = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    metadata = {"doc": doc, "bounds": bounds, "path": path, "affects": affects}
    if callable(default) and default is not REQUIRED:
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def key_of(spec: dataclasses.Field) -> str:
    """The YAML key of a field: its name, less the underscore that keeps a Python keyword legal."""
    return spec.name.removesuffix("_")


def default_of(spec: dataclasses.Field) -> Any:
    """The default of a field that has one."""
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    return spec.default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The base of every config. `kind` is set on the base class of a kind of part.

    In the kind's own folder `type` is what YAML calls the class by, where that is not the name of
    its file. An `abstract` class is not a part itself, but the base of some.
    """

    kind: ClassVar[Kind | None] = None
    type_: ClassVar[str | None] = None
    abstract: ClassVar[bool] = False

    def __init_subclass__(cls, *, type: str | None = None, abstract: bool = False) -> None:
        super().__init_subclass__()
        cls.type_, cls.abstract = type, abstract

    def validate(self) -> None:
        """Checks that no single field can make; raises `UserError`, to which the path is added."""

    def replace(self: C, **changes: Any) -> C:
        return dataclasses.replace(self, **changes)

    def traced(self: C) -> C:
        """The config with each field that the compiled step does not depend on at its default.

        Two configs whose `traced()` are equal have the same program.
        """
        return without(self, UNTRACED)


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
        raise error_at(
            path,
            marks,
            f"expected a mapping of keys, got {shown(values)}",
            "write key: value lines below it",
        )
    values = dict(values)
    cls = _resolve_type(cls, values, path, marks)
    hints = typing.get_type_hints(cls)
    known = {key_of(f): f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise error_at(join(path, key), marks, "unknown key", suggest(key, known))
    arguments = {}
    for name, spec in known.items():
        here = join(path, name)
        if name in values:
            value = _typed(values[name], hints[spec.name], spec)
            arguments[spec.name] = _value(hints[spec.name], value, here, marks)
            _check(arguments[spec.name], spec, here, marks)
        elif spec.default is REQUIRED and spec.default_factory is REQUIRED:
            raise error_at(here, marks, "is required", f"set it to {spec.metadata.get('doc')}")
    config = cls(**arguments)
    try:
        config.validate()
    except ConfigError:
        raise
    except UserError as error:
        place = _blamed(str(error), path, marks)
        raise ConfigError(f"{place}{path + ': ' if path else ''}{error}") from None
    return config


def _typed(value: Any, hint: Any, spec: dataclasses.Field) -> Any:
    """Values of a part without a `type`: with the type of the field's default, where it has one."""
    if not isinstance(value, Mapping) or "type" in value:
        return value
    if not isinstance(hint, type) or not registry.is_base(hint) or registry.kind_of(hint).default:
        return value
    default = default_of(spec)
    return {"type": type_name(type(default)), **value} if isinstance(default, Config) else value


def _blamed(message: str, path: str, marks: Mapping[str, Mark]) -> str:
    """The "file:line: " of a mistake that several fields make together.

    It is that of a field below `path` which the message names, the last one that was set: a dotted
    override goes before the file.
    """
    words = set(re.findall(r"\w+", message))
    prefix = f"{path}." if path else ""
    named = [p for p in marks if p.startswith(prefix) and p.rpartition(".")[2] in words]
    own = [p for p in named if "." not in p.removeprefix(prefix)]
    overridden = [p for p in named if marks[p] == COMMAND_LINE]
    for found in (overridden, own, named):
        if found:
            return where(found[0], marks)
    return where(path, marks)


def _resolve_type(
    cls: type[Config], values: dict, path: str, marks: Mapping[str, Mark]
) -> type[Config]:
    """The class that `type:` names, for a polymorphic base; `cls` itself for a plain config."""
    if not registry.is_base(cls):
        if "type" in values and values["type"] == type_name(cls):
            del values["type"]  # a concrete class does not need its type, but may have it
        return cls
    assert cls.kind is not None
    name, here = values.pop("type", cls.kind.default), join(path, "type")
    if name is None:
        fix = f"choose one of {few(registry.names(cls))}"
        raise error_at(here, marks, "is required", fix)
    try:
        return registry.find(cls, name)
    except UserError as error:
        raise ConfigError(f"{where(here, marks)}{printable(here)}: {error}") from error


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
        if not any(_same(value, a) for a in args):
            fix = suggest(str(value), [str(a) for a in args])
            raise error_at(path, marks, f"unknown value {shown(value)}", fix)
        return value
    if origin is tuple:
        return _tuple(args, value, path, marks)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise error_at(
                path,
                marks,
                f"expected a mapping, got {shown(value)}",
                "write key: value lines below it",
            )
        return {str(k): _value(args[1], v, join(path, str(k)), marks) for k, v in value.items()}
    if isinstance(hint, type) and issubclass(hint, Config):
        return _build(hint, value, path, marks)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _member(hint, value, path, marks)
    return _scalar(hint, value, path, marks)


def _tuple(args: tuple, value: Any, path: str, marks: Mapping[str, Mark]) -> tuple:
    """A list as a tuple[X, ...] (any other value is a list of one) or a tuple[X, Y]."""
    if not isinstance(value, (list, tuple)):
        if args[-1] is ...:
            return (_value(args[0], value, path, marks),)
        value = [value]
    if args[-1] is ...:
        args = (args[0],) * len(value)
    elif len(args) != len(value):
        what = f"expected a list of {len(args)} values, got {len(value)}"
        raise error_at(path, marks, what, f"write {len(args)} values in brackets")
    return tuple(
        _value(hint, v, join(path, i), marks)
        for i, (hint, v) in enumerate(zip(args, value, strict=True))
    )


def _member(hint: type[enum.Enum], value: Any, path: str, marks: Mapping[str, Mark]) -> Any:
    """The member of an enum that a config's text or number means: its value, or its name."""
    if isinstance(value, hint):
        return value
    for member in hint:
        if _same(value, _plain_member(member)):
            return member
    for member in hint:
        if _same(value, member.value) or _same(value, member.name):
            return member
    fix = suggest(str(value), [m.value if isinstance(m, str) else m.name for m in hint])
    raise error_at(path, marks, f"unknown value {shown(value)}", fix)


def _same(value: Any, other: Any) -> bool:
    """Whether two plain values are equal; true is not 1."""
    return type(value) is type(other) and value == other


def _plain_member(member: enum.Enum) -> Any:
    """How a member of an enum is written: a number or a text as it is, any other by its name."""
    return member.value if isinstance(member, int | float | str) else member.name


def _scalar(hint: type, value: Any, path: str, marks: Mapping[str, Mark]) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf  # which no field takes
    if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    name = names.get(hint, hint.__name__)
    fix = f"write {name}"
    if hint is int and isinstance(value, float) and value.is_integer():
        fix = f"write {shown(int(value))}"
    elif hint is str and isinstance(value, (bool, int, float)):
        fix = "put it in quotes"
    raise error_at(path, marks, f"expected {name}, got {shown(value)}", fix)


def _check(value: Any, spec: dataclasses.Field, path: str, marks: Mapping[str, Mark]) -> None:
    """Raises `ConfigError` where a value, or an element of it, is out of the field's range."""
    if isinstance(value, (tuple, dict)):
        for key, item in _items(value).items():
            _check(item, spec, join(path, key), marks)
    elif isinstance(value, str) and spec.metadata.get("path"):
        if what := wrong_path(value):
            raise error_at(path, marks, what, "name a file or a folder")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        wrong = _out_of_range(value, spec.metadata.get("bounds", {}))
        if wrong is not None:
            raise error_at(path, marks, *wrong)


_INT32 = {"ge": -(2**31), "lt": 2**31}
_FLOAT32 = {"ge": -3.4028234663852886e38, "le": 3.4028234663852886e38}
_SMALLEST = 2.0**-126  # smaller ones are 0 on most devices
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _out_of_range(value: float, own: Mapping[str, float | None]) -> tuple[str, str] | None:
    """What is wrong with a number, and how to fix it; None where it is in the range.

    A float is computed with as a float32, which must be in the range, too: there 0.99999999 is 1.
    """
    if value != value:
        return "is not a number (nan)", "set a finite number"
    bounds = {name: bound for name, bound in own.items() if bound is not None}
    for name, bound in (_INT32 if isinstance(value, int) else _FLOAT32).items():
        stated = bounds.keys() & {name[0] + "e", name[0] + "t"}
        if not stated and not getattr(operator, name)(value, bound):
            bounds[name] = bound
    fix = "set it " + " and ".join(f"{_SIGNS[name]} {bound}" for name, bound in bounds.items())
    if not all(getattr(operator, name)(value, bound) for name, bound in bounds.items()):
        return f"{shown(value)} is out of range", fix
    if isinstance(value, float) and abs(value) <= _FLOAT32["le"]:
        if 0 < abs(value) < _SMALLEST:
            return f"{value!r} is 0 in float32", f"set it to 0 or to at least {_SMALLEST:.2e}"
        (rounded,) = struct.unpack("f", struct.pack("f", value))
        strict = {name: bound for name, bound in bounds.items() if name in ("gt", "lt")}
        if not all(getattr(operator, name)(rounded, bound) for name, bound in strict.items()):
            return f"{value!r} is out of range: it is {rounded!r} in float32", fix
    return None


# --------------------------------------------------------------------------------- config -> values


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain values, `type:` first where the class is a part."""
    values: dict[str, Any] = {}
    name = type_name(type(config))
    if name is not None:
        values["type"] = name
    for spec in dataclasses.fields(config):
        values[key_of(spec)] = _to_plain(getattr(config, spec.name))
    return values


def _to_plain(value: Any) -> Any:
    if isinstance(value, Config):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_to_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _to_plain(v) for k, v in value.items()}
    if isinstance(value, enum.Enum):
        return _plain_member(value)
    return value


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `load` reads back to an equal config.

    Raises `UserError` where another process could not: a part that is defined in a function.
    """
    for _, part in configs_in(config):
        if type_name(type(part)) is not None:
            registry.check_importable(type(part))
    return dump_yaml(to_dict(config))


def configs_in(value: Any, path: str = "") -> Iterable[tuple[str, Config]]:
    """(dotted path, config) of a config and of all that it holds."""
    if isinstance(value, Config):
        yield path, value
        for spec in dataclasses.fields(value):
            yield from configs_in(getattr(value, spec.name), join(path, key_of(spec)))
    elif isinstance(value, (tuple, dict)):
        for key, item in _items(value).items():
            yield from configs_in(item, join(path, key))


def sha256(config: Config) -> str:
    """SHA-256 of the values in canonical JSON: whatever file or order they came from."""
    values = _canonical(to_dict(config))
    text = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """1.0 as 1: a default that the code spells as 1 and a file's 1.0 are the same config. A list of
    one config is its item: so the hashes of earlier versions have it.
    """
    if isinstance(value, dict):
        return {key: _canonical(v) for key, v in value.items()}
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], dict):
            return _canonical(value[0])
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# -------------------------------------------------------------------------- what a change means


def affects_of(cls: type[Config], name: str) -> Affects:
    """What a change of a field means: as the class says, or the nearest base class that says it."""
    for base in cls.__mro__:
        spec = base.__dict__.get("__dataclass_fields__", {}).get(name)
        if spec is not None and spec.metadata.get("affects") is not None:
            return spec.metadata["affects"]
    return "weights"


def without(value: Any, affects: Collection[Affects]) -> Any:
    """A config with each field that `affects` one of these, at any depth, at its default.

    A field without a default is None.
    """
    if isinstance(value, tuple):
        return tuple(without(item, affects) for item in value)
    if isinstance(value, dict):
        return {key: without(item, affects) for key, item in value.items()}
    if not isinstance(value, Config):
        return value
    changes = {}
    for spec in dataclasses.fields(value):
        if affects_of(type(value), spec.name) in affects:
            default = default_of(spec)
            changes[spec.name] = None if default is REQUIRED else default
        else:
            changes[spec.name] = without(getattr(value, spec.name), affects)
    return value.replace(**changes)


def traced_values(config: Config) -> dict[str, Any]:
    """As `to_dict`, less what no step is traced from."""
    kept = config.traced()
    values = to_dict(kept)
    for spec in dataclasses.fields(kept):
        inner = getattr(kept, spec.name)
        if affects_of(type(kept), spec.name) in UNTRACED:
            del values[key_of(spec)]
        elif isinstance(inner, Config):
            values[key_of(spec)] = traced_values(inner)
    return values


def allowed_paths(cls: type[Config], path: str = "") -> Iterable[str]:
    """The dotted paths of what may differ between two starts of a run of this config.

    Fields of parts are not among them: which these are depends on their `type`.
    """
    hints = typing.get_type_hints(cls)
    for spec in dataclasses.fields(cls):
        here, hint = join(path, key_of(spec)), hints[spec.name]
        if affects_of(cls, spec.name) in ALLOWED:
            yield here
        elif isinstance(hint, type) and issubclass(hint, Config) and not registry.is_base(hint):
            yield from allowed_paths(hint, here)


class Setting(typing.NamedTuple):
    """One leaf of a resolved config, as `jaxlm config show` prints it."""

    path: str
    value: Any
    meaning: str
    source: str  # "run.yaml:12", "command line" or "default"


def settings(resolved: Resolved) -> list[Setting]:
    """Every leaf field with its meaning and where its value came from."""
    single = {re.sub(r"\.0(?=\.)", "", path): mark for path, mark in resolved.marks.items()}
    marks = single | resolved.marks
    return [
        Setting(path, value, meaning, _source(path, marks))
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
        yield join(path, "type"), name, (type(config).__doc__ or "").strip().split("\n")[0]
    for spec in dataclasses.fields(config):
        yield from _describe(
            getattr(config, spec.name), join(path, key_of(spec)), spec.metadata.get("doc", "")
        )


def _describe(value: Any, path: str, doc: str) -> Iterable[tuple[str, Any, str]]:
    if is_single(value):
        value = value[0]
    if isinstance(value, Config):
        yield from describe(value, path)
    elif isinstance(value, (tuple, dict)) and any(
        isinstance(v, Config) for v in _items(value).values()
    ):
        for key, item in _items(value).items():
            yield from _describe(item, join(path, key), doc)
    else:
        yield path, _to_plain(value), doc


def is_single(value: Any) -> bool:
    """Whether a value is a list of one config, whose fields need no number in dotted paths."""
    return isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], Config)


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
