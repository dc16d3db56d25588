"""A model's parameters as a plain nested dict, with the logical axes of each.

Modules define a model; the train state holds only arrays. `split` takes a model apart once, and
`nnx.merge(graphdef, params)` puts it together inside a jitted function:

    graphdef, params, axes = split(model)
    hidden, _ = nnx.merge(graphdef, params)(tokens, positions=..., segment_ids=...)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx


def split(model: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(graphdef, parameters, logical axes), the last two nested dicts of the same keys.

    Every parameter carries `axes`; the dims that a scanned stack adds in front are named "layers".
    """
    graphdef, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    flat = dict(nnx.to_flat_state(state))
    axes: dict[str, Any] = {}
    for path, variable in flat.items():
        names = tuple(variable.get_metadata()["axes"])
        ndim = len(variable.get_value().shape)
        node = axes
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = ("layers",) * (ndim - len(names)) + names
    return graphdef, params, axes


def map_with_path(function: Callable[..., Any], tree: Mapping[str, Any], *rest: Any, path: str = "") -> Any:
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
