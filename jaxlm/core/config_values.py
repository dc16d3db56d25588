"""A config -> plain values: a dict, YAML, a hash, its settings, the difference of two configs.

assert parse(RunConfig, to_dict(config)) == config
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from jaxlm.core import registry
from jaxlm.core.config_fields import (
    ALLOWED,
    UNTRACED,
    Config,
    affects_of,
    is_single,
    items_of,
    key_of,
    plain_member,
)
from jaxlm.core.config_parse import Resolved
from jaxlm.core.config_yaml import (
    Mark,
    join,
)
from jaxlm.core.registry import type_name
from jaxlm.core.yaml_text import dump_yaml


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
        return plain_member(value)
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
        for key, item in items_of(value).items():
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
        isinstance(v, Config) for v in items_of(value).values()
    ):
        for key, item in items_of(value).items():
            yield from _describe(item, join(path, key), doc)
    else:
        yield path, _to_plain(value), doc


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
