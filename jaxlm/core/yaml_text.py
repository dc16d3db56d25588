"""YAML text as nodes and scalars, within limits: no text costs more than its size suggests.

    node = compose("steps: 1e3", "run.yaml")
    scalar(node.value[0][1], "run.yaml:1")        # 1000.0

The scalars are those of YAML 1.2. A file is at most `MAX_BYTES` long, and everything that its
aliases, merge keys and includes expand to has at most `MAX_NODES` values.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from jaxlm.core.errors import ConfigError, is_one_line, shown

MAX_BYTES = 1_000_000
MAX_NODES = 50_000
MAX_FILES = 200
MAX_DEPTH = 64
MAX_DIGITS = 300  # in a number: the largest float has 309

_TAG = "tag:yaml.org,2002:"
MERGE = _TAG + "merge"


class Loader(yaml.SafeLoader):
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
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[0-9]+[eE][-+]?[0-9]+|\.inf)|\.nan",
        "-+0123456789.",
    ),
}
_NULL = ("", "~", "null", "Null", "NULL")
_OTHERS = (":null", ":merge")
Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag.endswith(_OTHERS)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _first) in _SCALARS.items():
    for _reader in (Loader, _Dumper):
        _reader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))


def read_text(path: Path) -> str:
    """The text of a YAML file. Raises `OSError`, or `ConfigError` where it is not a file's text.

    Only a regular file of at most `MAX_BYTES` is opened: a pipe or a device may have no end.
    """
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            raise ConfigError(f"{path}: is a directory; name a YAML file")
        if not stat.S_ISREG(kind):
            raise ConfigError(f"{path}: is a pipe or a device; name a regular YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except ConfigError:
        raise
    except ValueError:  # a NUL, or half a surrogate
        raise ConfigError(f"{shown(str(path))}: is not a file name; name a YAML file") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES:,} bytes; a config is a small file")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; a config is a YAML file") from None


def compose(text: str, source: str, *, secret: bool = False) -> yaml.Node | None:
    """The root node of a YAML text; None where it is empty. Errors begin with `source`.

    `secret`: the text may be of a file that is not meant for us, so no error quotes it.
    """
    try:
        return _node(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = ord(error.character) if isinstance(error.character, str) else error.character
        what = f"character U+{code:04X} is not allowed in YAML"
        raise ConfigError(f"{source}:{line}: {what}; remove it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark else source
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        if secret:
            problem = re.sub(r"'[^']{2,}'|\"[^\"]{2,}\"", "...", problem)
        raise ConfigError(f"{place}: {problem}; fix the YAML") from None
    except RecursionError:
        raise too_deep(source) from None
    except (ValueError, OverflowError):  # the number of an escape, or of a %YAML line
        raise ConfigError(f"{source}: an escape is not a character; fix the YAML") from None


@lru_cache(maxsize=8)  # one verb reads the config of its run several times
def _node(text: str) -> yaml.Node | None:
    return Loader(text).get_single_node()


def too_deep(source: str) -> ConfigError:
    return ConfigError(f"{source}: values are nested more than {MAX_DEPTH} deep; flatten them")


def scalar(node: yaml.ScalarNode, at: str) -> Any:
    """The value of a scalar node: text, a number, true, false or null. Errors begin with `at`."""
    name, text = node.tag.removeprefix(_TAG), node.value
    if name in ("str", "merge"):
        return _whole_characters(text, at)
    if name == "null" and text in _NULL:
        return None
    kinds = {"bool": ("bool",), "int": ("int",), "float": ("float", "int")}.get(name, ())
    if not any(re.fullmatch(_SCALARS[kind][0], text) for kind in kinds):
        what = f"{shown(text)} with the tag {shown(node.tag)}"
        raise ConfigError(f"{at}: {what} is not a value; write it without a tag")
    if name == "bool":
        return text in ("true", "True")
    digits = text.replace("_", "")
    if len(digits) > MAX_DIGITS:
        what = f"a number of {len(digits):,} characters"
        raise ConfigError(f"{at}: {what}; write one of at most {MAX_DIGITS}")
    if name == "int":
        return int(digits, 16 if digits.startswith("0x") else 10)
    return float(digits.replace(".inf", "inf").replace(".nan", "nan"))


def _whole_characters(text: str, at: str) -> str:
    r"""`text` with the pairs that JSON's "\ud83d\ude00" makes joined; refuses half a pair."""
    if not any("\ud800" <= c <= "\udfff" for c in text):
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        what = f"{shown(text)} holds half a surrogate pair, which is not a character"
        raise ConfigError(f"{at}: {what}; write the whole character") from None


def dump_yaml(*documents: Mapping[str, Any]) -> str:
    """Plain values as YAML that `read_yaml` reads back to the same; several as one stream."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
