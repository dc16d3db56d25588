"""Plain values -> a config, strictly: every key known, every type right, every number in its range.

    config = parse(AdamW, {"beta1": 0.95})

A mistake is one line: the path of the key, its file and line, and the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Union

from jaxlm.core import registry
from jaxlm.core.config_fields import REQUIRED, C, Config, default_of, items_of, key_of, plain_member
from jaxlm.core.config_ranges import out_of_range
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
from jaxlm.core.other_names import OTHER_NAMES
from jaxlm.core.registry import type_name


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
            _as_mapping(cls, values),
        )
    values = dict(values)
    cls = _resolve_type(cls, values, path, marks)
    hints = typing.get_type_hints(cls)
    known = {key_of(f): f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            here, ours = join(path, key), OTHER_NAMES.get(key)
            fix = f"jaxlm's key is {ours}" if ours and ours != here else suggest(key, known)
            raise error_at(here, marks, "unknown key", fix)
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


def _as_mapping(cls: type[Config], value: Any) -> str:
    """How to write a config that was given as a single value."""
    if registry.is_base(cls) and isinstance(value, str) and value in registry.names(cls):
        return f"write {{type: {value}}}"
    return "write key: value lines below it"


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
        if _same(value, plain_member(member)):
            return member
    for member in hint:
        if _same(value, member.value) or _same(value, member.name):
            return member
    fix = suggest(str(value), [m.value if isinstance(m, str) else m.name for m in hint])
    raise error_at(path, marks, f"unknown value {shown(value)}", fix)


def _same(value: Any, other: Any) -> bool:
    """Whether two plain values are equal; true is not 1."""
    return type(value) is type(other) and value == other


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
        for key, item in items_of(value).items():
            _check(item, spec, join(path, key), marks)
    elif isinstance(value, str) and spec.metadata.get("path"):
        if what := wrong_path(value):
            raise error_at(path, marks, what, "name a file or a folder")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        wrong = out_of_range(value, spec.metadata.get("bounds", {}))
        if wrong is not None:
            raise error_at(path, marks, *wrong)
