"""Names that keys of a config had in older versions: one table.

    layer = renamed(read_yaml("old.yaml"))      # logs: objective.pool is objective.head.pool now

A row is {old dotted key: new dotted key}. Where an old key is still right in some configs, the row
has a function instead: it gets the values of the whole config and returns the new key, or None
where the key is to stay. A key with "=value" renames that value alone, such as a part's type. The
values of the file go before those that the table would move to the same place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from jaxlm.core.config_yaml import Layer, Mark

log = logging.getLogger("jaxlm")

Values = Mapping[str, Any]


def _of_classifier(new: str) -> Callable[[Values], str | None]:
    """A key that moved in the objective of classification alone."""

    def key(values: Values) -> str | None:
        return new if _look(values, "objective.type") == "classification" else None

    return key


RENAMES: dict[str, str | Callable[[Values], str | None]] = {
    "objective.type=sequence_classification": "objective.type=classification",
    "objective.pool": _of_classifier("objective.head.pool"),
    "objective.dropout": _of_classifier("objective.head.dropout"),
}


def renamed(layer: Layer) -> Layer:
    """The layer with today's keys, changed in place; one line in the log for each that changed."""
    for row, rule in RENAMES.items():
        old, equals, value = row.partition("=")
        found = _look(layer.values, old)
        if found is _ABSENT or (equals and found != value):
            continue
        new = rule if isinstance(rule, str) else rule(layer.values)
        if new is None:
            continue
        log.info("config: %s is %s now", row, new)
        key, equals, value = new.partition("=")
        _move(layer.values, old, key, value if equals else found)
        _move_marks(layer.marks, old, key)
    return layer


_ABSENT = object()


def _look(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _move(values: dict[str, Any], old: str, new: str, value: Any) -> None:
    """Takes the old key out, and sets the new one unless it is set."""
    *parents, last = old.split(".")
    node: Any = values
    for part in parents:
        node = node[part]
    del node[last]
    *parents, last = new.split(".")
    node = values
    for part in parents:
        node = node.setdefault(part, {})
    node.setdefault(last, value)


def _move_marks(marks: dict[str, Mark], old: str, new: str) -> None:
    """What was set is reported where it was set."""
    for path in [*marks]:
        if path == old or path.startswith(f"{old}."):
            marks.setdefault(new + path.removeprefix(old), marks.pop(path))
