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

Import from here. The parts of it are in config_fields.py (the base class), config_parse.py (values
to a config), config_ranges.py, config_values.py (a config to values) and config_yaml.py (files and
overrides).
"""

from __future__ import annotations

import importlib
from typing import Any

from jaxlm.core.config_fields import (
    ALLOWED,
    LOGGED,
    REQUIRED,
    UNTRACED,
    Affects,
    Config,
    affects_of,
    default_of,
    field,
    is_single,
    key_of,
    without,
)
from jaxlm.core.config_parse import Resolved, load, parse
from jaxlm.core.config_values import (
    Setting,
    allowed_paths,
    configs_in,
    describe,
    diff,
    settings,
    sha256,
    to_dict,
    to_yaml,
    traced_values,
)
from jaxlm.core.config_yaml import Layer, Mark, read_overrides, read_yaml, where
from jaxlm.core.errors import ConfigError, UserError, shown, suggest
from jaxlm.core.kinds import Kind
from jaxlm.core.registry import type_name

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
    "is_single",
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


def import_name(name: str) -> Any:
    """The object that "module:attribute" names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
