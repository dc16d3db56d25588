"""A model's parameters as a plain nested dict, with the logical axes of each.

Modules define a model; the train state holds only arrays. `split` takes a model apart once, and
`nnx.merge(graphdef, params)` puts it together inside a jitted function:

    graphdef, params, axes = split(model)
    hidden, _ = nnx.merge(graphdef, params)(tokens, positions=..., segment_ids=...)
"""

from __future__ import annotations

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
        node: Any = axes
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = ("layers",) * (ndim - len(names)) + names
    return graphdef, params, axes
