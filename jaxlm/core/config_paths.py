"""The paths in a config. A relative one starts at the folder that the command is started in.

That holds for a config file and for the command line, as in Hydra and axolotl; `include:`, which
names another config, starts at the file it is in. A run keeps its paths absolute, so that it is
resumed from any folder:

    anchored(config).data.source.files      # ("/home/a/texts/*.txt",) of "texts/*.txt"
    moved(config, "/a/base", "/b/base")     # "/b/base/tokenizer" where it was "/a/base/tokenizer"
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from jaxlm.core.config import Config, is_single, key_of
from jaxlm.core.config_yaml import join

C = TypeVar("C", bound=Config)


def anchored(config: C, folder: str | None = None) -> C:
    """The config with its relative paths made absolute; `folder`: by default where we are."""
    start = os.getcwd() if folder is None else folder

    def absolute(path: str) -> str:
        # ~ is the home; ".." is kept, as it is another folder after a symlink
        return path if path.startswith("~") else os.path.join(start, path.removeprefix("./"))

    return _changed(config, absolute)


def moved(config: C, folder: str, to: str) -> C:
    """The config whose paths of a folder, and in it, are those of the folder `to`."""
    inside = os.path.join(folder, "")

    def there(path: str) -> str:
        if path == folder:
            return to
        return os.path.join(to, path.removeprefix(inside)) if path.startswith(inside) else path

    return _changed(config, there)


def path_keys(config: Config) -> set[str]:
    """The dotted keys of the fields that hold paths."""
    return set(_keys(config, ""))


def _changed(value: Any, change: Callable[[str], str], is_path: bool = False) -> Any:
    if isinstance(value, Config):
        changes = {
            spec.name: _changed(getattr(value, spec.name), change, spec.metadata["path"])
            for spec in dataclasses.fields(value)
        }
        return value.replace(**changes)
    if isinstance(value, tuple):
        return tuple(_changed(item, change, is_path) for item in value)
    if isinstance(value, dict):
        return {key: _changed(item, change, is_path) for key, item in value.items()}
    return change(value) if is_path and isinstance(value, str) else value


def _keys(value: Any, here: str) -> Iterator[str]:
    if isinstance(value, Config):
        for spec in dataclasses.fields(value):
            name = join(here, key_of(spec))
            if spec.metadata["path"]:
                yield name
            yield from _keys(getattr(value, spec.name), name)
    elif is_single(value):
        yield from _keys(value[0], here)
    elif isinstance(value, (tuple, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _keys(item, join(here, key))
