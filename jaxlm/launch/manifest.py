"""YAML files of the targets, from templates in which every value is a quoted YAML value.

    manifest("skypilot.yaml", name="a: b", ...)      # name: "a: b"

`{{ value }}` inserts a value on one line: a text, in double quotes unless it is a plain word, or a
number, a list or a mapping in flow style. `{{ text | block(2) }}` inserts a text of several lines
as a block under a key that is indented by 2.
"""

from __future__ import annotations

import re
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jaxlm.core.config_yaml import is_one_line
from jaxlm.core.templates import environment
from jaxlm.launch.shell import TEMPLATES

if TYPE_CHECKING:
    from jinja2 import Environment


class Yaml(str):
    """Text that is YAML already."""


class _Quoting(yaml.SafeDumper):
    """Puts every text in double quotes, except plain words and paths."""

    def represent_str(self, data: str) -> Any:
        style = None if re.fullmatch(r"[A-Za-z/][A-Za-z0-9_./-]+", data) else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Quoting.add_representer(str, _Quoting.represent_str)


def manifest(template: str, /, folder: Path = TEMPLATES, **values: Any) -> str:
    """A YAML file from a template file; `folder` is that of a target outside this package."""
    return _manifests(folder).get_template(template).render(values)


@cache
def _manifests(folder: Path) -> Environment:
    manifests = environment(folder, TEMPLATES, autoescape=False, finalize=_value)
    manifests.filters["block"] = _block
    return manifests


def _value(value: Any) -> str:
    """A plain value on one line."""
    if isinstance(value, Yaml):
        return value
    text = yaml.dump(
        value, Dumper=_Quoting, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _block(text: str, indent: int = 0) -> Yaml:
    """A text as a block; in quotes, where a character of it would end a line of YAML."""
    if not all(is_one_line(char) or char in "\n\t" for char in text):
        return Yaml(_value(text))
    body = yaml.dump(text, Dumper=yaml.SafeDumper, default_style="|", allow_unicode=True)
    return Yaml(textwrap.indent(body, " " * indent).strip(" ").removesuffix("\n"))
