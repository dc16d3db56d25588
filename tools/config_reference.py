"""Writes docs/configuration.md: every setting, from the fields of the configs.

python tools/config_reference.py            # after a change of a field
python tools/config_reference.py --check    # exit code 1 if the page is not current
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jaxlm.launch.target  # noqa: F401  (a kind of part that no run has)
from jaxlm.core import registry
from jaxlm.core.config import (
    ALLOWED,
    LOGGED,
    REQUIRED,
    Config,
    affects_of,
    default_of,
    key_of,
    to_dict,
)
from jaxlm.core.config_yaml import join
from jaxlm.run import RunConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
REFUSED, LOG, FREE = "refused", "logged", "free"
NAMES = {int: "int", float: "float", str: "text", bool: "true, false"}

HEAD = """\
<!-- made by tools/config_reference.py from the fields of the configs; edit those -->
# Configuration

A run is one YAML file of typed settings. `jaxlm config show CONFIG` prints what a config sets,
where it was set, and what it means; `--all` adds the defaults, and `--yaml` prints a config that
`jaxlm train` takes.

- **Overrides.** `key.sub=value` on the command line, such as `train.steps=50` or `"optimizer={type:
  sgd, momentum: 0.9}"`. The value is YAML. An element of a list has its number as a key:
  `optimizer.weight_decay.0.value=0.1`.
- **Includes.** `include: other.yaml` in any mapping brings the keys of another file, which the
  mapping's own keys override. A mapping whose `type` changes is replaced, not merged.
- **Types.** `type:` chooses a part: a name below, an entry point of an installed package, or
  `package.module:Class` ([extending.md](extending.md)). `jaxlm parts` lists all.
- **Paths** in a file and on the command line are relative to the working directory, as in Hydra and
  axolotl; only `include:` is relative to its file. A run stores absolute paths: it is resumed from
  any folder.
- **Errors.** An unknown key, a wrong type or a value out of range is one line with the file, the
  line and the nearest valid key.

In the tables, "required" has no default, and `null` is a value that its meaning explains. The
column *on resume* says what a change does when a run is resumed: *refused* (it would be another
run), *logged* (allowed, and recorded), or *free*. The fields of a part that is chosen by `type` are
in the section of its kind.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        print("docs/configuration.md is not current; run: python tools/config_reference.py")
        return 1
    return 0


def page() -> str:
    """The whole page."""
    bases = sorted(_all_bases(), key=lambda base: registry.kind_of(base).name)
    sections = [HEAD, "## A run\n", *_table(RunConfig)]
    for base in bases:
        kind = registry.kind_of(base)
        classes = [base, *(registry.find(base, name) for name in registry.names(base))]
        if not any(map(dataclasses.fields, classes)):
            continue  # no config names its parts: sections of a report
        sections.append(f"\n## {kind.name}\n")
        shared = {spec.name for spec in dataclasses.fields(base)}
        if shared:
            sections += [f"Settings of every {kind.noun}:\n", *_table(base), ""]
        for name in registry.names(base):
            cls = registry.find(base, name)
            about = (cls.__doc__ or "").strip().splitlines()[0]
            sections.append(f"### type: {name}\n\n{about}\n")
            changed = {n for n in shared if _cells(cls, n) != _cells(base, n)}
            sections += [*_table(cls, shared - changed), ""]
    return "\n".join(sections).rstrip() + "\n"


def _all_bases() -> list[type[Config]]:
    """The base classes of all kinds, also of parts that only other parts have."""
    found: list[type[Config]] = []
    while new := [base for base in dict.fromkeys(_bases(Config)) if base not in found]:
        for base in new:
            for name in registry.names(base):
                registry.find(base, name)  # its module may import further kinds
        found += new
    return found


def _bases(cls: type[Config]) -> Iterator[type[Config]]:
    """The base classes of all kinds of parts of this package."""
    for sub in cls.__subclasses__():
        if registry.is_base(sub) and sub.__module__.startswith("jaxlm."):
            yield sub
        yield from _bases(sub)


def _table(cls: type[Config], hidden: typing.Collection[str] = ()) -> list[str]:
    """The rows of a config; those of plain configs in it have dotted keys."""
    rows = [f"| `{key}` | {' | '.join(cells)} |" for key, cells in _rows(cls, hidden, "", REFUSED)]
    if not rows:
        return ["No settings of its own."]
    return ["| key | type | default | meaning | on resume |", "|---|---|---|---|---|", *rows]


def _rows(
    cls: type[Config], hidden: typing.Collection[str], path: str, above: str
) -> Iterator[tuple[str, tuple[str, ...]]]:
    hints = typing.get_type_hints(cls)
    for spec in dataclasses.fields(cls):
        if spec.name in hidden:
            continue
        here, hint = join(path, key_of(spec)), hints[spec.name]
        inner, suffix = _inner(hint)
        if inner is not hint:
            yield here, _cells(cls, spec.name, above)
        if inner is not None:
            yield from _rows(inner, (), here + suffix, _on_resume(cls, spec.name, above))


def _inner(hint: Any) -> tuple[type[Config] | None, str]:
    """(the config that is not a part in a field, what is added to its key): in a list, a number."""
    args = [arg for arg in typing.get_args(hint) if arg is not type(None)]
    if typing.get_origin(hint) is dict:
        return _inner(args[1])[0], ".NAME"
    if typing.get_origin(hint) is tuple:
        return _inner(args[0])[0], ".0"
    for arg in args:
        if (found := _inner(arg))[0] is not None:
            return found
    is_config = isinstance(hint, type) and issubclass(hint, Config)
    return (hint if is_config and registry.base_of(hint) is None else None), ""


def _on_resume(cls: type[Config], name: str, above: str) -> str:
    """The effect of a field's change on resume; `above`: of the field that its config is in."""
    affects = affects_of(cls, name)
    own = FREE if affects in ALLOWED else LOG if affects in LOGGED else REFUSED
    return max(own, above, key=(REFUSED, LOG, FREE).index)


def _cells(cls: type[Config], name: str, above: str = REFUSED) -> tuple[str, ...]:
    """(type and range, default, meaning, on resume) of a field."""
    spec = cls.__dataclass_fields__[name]
    bounds = {n: b for n, b in spec.metadata["bounds"].items() if b is not None}
    limits = " and ".join(f"{SIGNS[n]} {_number(b)}" for n, b in bounds.items())
    kind = _type(typing.get_type_hints(cls)[name])
    default = default_of(spec)
    shown = "required" if default is REQUIRED else f"`{_shown(default)}`"
    meaning = spec.metadata["doc"].replace("|", "\\|").replace("<", "&lt;")
    return (f"{kind} {limits}".strip(), shown, meaning, _on_resume(cls, name, above))


def _type(hint: Any) -> str:
    """A type as a user writes it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{_shown(value)}`" for value in args)
    if origin in (typing.Union, types.UnionType):
        named = [_type(arg) for arg in args if arg is not type(None)]
        return " or ".join([*named, *(["null"] if type(None) in args else [])])
    if origin is tuple and args[-1] is Ellipsis:
        return f"list of {_type(args[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type, args))}]"
    if origin is dict:
        return f"mapping of {_type(args[1])}"
    if isinstance(hint, type) and issubclass(hint, Config):
        base = registry.base_of(hint)
        if base is not None:
            kind = registry.kind_of(base)
            return f"[{kind.noun}](#{kind.name})"
        return "mapping"
    return NAMES.get(hint, getattr(hint, "__name__", str(hint)))


def _shown(value: Any) -> str:
    """A value in one line of YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Config):
        values = {k: v for k, v in to_dict(value).items() if k == "type"}
        return _shown(values)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_shown(item)}' for key, item in value.items())}}}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_shown, value))}]"
    return _number(value) if isinstance(value, (int, float)) else str(value)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) or not math.isfinite(value) else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
