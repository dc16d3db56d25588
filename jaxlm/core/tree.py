"""Nested dicts and their "/"-joined paths ("layers/attention/query/kernel")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def map_with_path(
    function: Callable[..., Any], tree: Mapping[str, Any], *rest: Any, path: str = ""
) -> Any:
    """`function("a/b", leaf, ...)` over nested dicts of the same keys."""
    out = {}
    for key, value in tree.items():
        here = f"{path}/{key}" if path else str(key)
        others = [r[key] for r in rest]
        if isinstance(value, Mapping):
            out[key] = map_with_path(function, value, *others, path=here)
        else:
            out[key] = function(here, value, *others)
    return out


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": leaf} of a nested dict, in the sorted order of the paths."""
    flat: dict[str, Any] = {}
    map_with_path(lambda path, leaf: flat.__setitem__(path, leaf), tree)
    return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of {"a/b": leaf}."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = leaf
    return tree


def join(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """One nested dict of the leaves of two; no path is in both."""
    if not second:
        return dict(first)
    one, other = flatten(first), flatten(second)
    assert not one.keys() & other.keys(), sorted(one.keys() & other.keys())
    return unflatten(one | other)


def select(tree: Mapping[str, Any], wanted: Callable[[str], bool]) -> dict[str, Any]:
    """The leaves whose path is wanted; a dict without any is left out."""
    return unflatten({path: leaf for path, leaf in flatten(tree).items() if wanted(path)})
