"""Rotary positions as config.json says them, in its older form and in its newer one.

    {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, ...}}
    {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0, ...}}

    position = from_hf(values)     # a RotaryConfig; raises UserError for a scaling not known here
    values |= to_hf(position)      # the older form, which every version of transformers reads

What the words mean is in `jaxlm.nn.rope_scaling`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxlm.core.errors import UserError, shown, suggest
from jaxlm.nn.position import RotaryConfig
from jaxlm.nn.rope_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    ScalingConfig,
    YarnScaling,
)

SCALINGS: dict[str, type[ScalingConfig]] = {
    "linear": LinearScaling,
    "dynamic": DynamicScaling,
    "yarn": YarnScaling,
    "llama3": Llama3Scaling,
}
TRAINED = "original_max_position_embeddings"
# Keys of every kind of scaling besides its own fields. YaRN's mscales are another form of a factor.
KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", TRAINED}
YARN_KEYS = {"mscale", "mscale_all_dim"}


def from_hf(values: Mapping[str, Any], *, theta: float = 10_000.0) -> RotaryConfig:
    """The positions of a config.json; `theta` is the base if it has none."""
    older, newer = values.get("rope_scaling") or {}, values.get("rope_parameters") or {}
    refuse_both(older, newer, "rope_parameters")
    return rotary(older or newer, values, theta=theta)


def rotary(
    rope: Mapping[str, Any], values: Mapping[str, Any], *, theta: float, base: str = "rope_theta"
) -> RotaryConfig:
    """The positions that one object of parameters says, in a config.json of `values`.

    `base`: the key of the angles' base outside of the object; `theta` where neither says it.
    """
    fraction = said_once("partial_rotary_factor", rope, values)
    if fraction not in (None, 1.0):
        raise UserError(
            f"config.json: partial_rotary_factor is {fraction}; known is 1.0 alone, as this family "
            "turns whole heads"
        )
    said = said_once("rope_theta", rope, values, base)
    return RotaryConfig(
        theta=float(theta if said is None else said), scaling=_scaling(rope, values)
    )


def said_once(
    key: str, rope: Mapping[str, Any], values: Mapping[str, Any], outside: str | None = None
) -> Any:
    """The value of a key in an object of positions, or `outside` of it, where older files have it;
    None where neither has it. Raises `UserError` where the two differ.
    """
    outside = outside or key
    inner, outer = rope.get(key), values.get(outside)
    if inner is not None and outer is not None and inner != outer:
        raise UserError(
            f"config.json: {outside} is {shown(outer)}, but {key} in the scaling of positions "
            f"is {shown(inner)}; remove the one that is wrong"
        )
    return outer if inner is None else inner


def refuse_both(older: Mapping[str, Any], newer: Mapping[str, Any], name: str) -> None:
    """Raises `UserError` where positions are said in both forms, of which one would be ignored."""
    if older and newer:
        raise UserError(
            f"config.json: rope_scaling and {name} both say the positions; remove the one that is "
            "wrong"
        )


def to_hf(position: RotaryConfig) -> dict[str, Any]:
    """The keys of config.json that say these positions."""
    values: dict[str, Any] = {"rope_theta": position.theta, "rope_scaling": None}
    scaling = position.scaling
    if scaling is not None:
        (kind,) = (kind for kind, cls in SCALINGS.items() if cls is type(scaling))
        found = {spec.name: getattr(scaling, spec.name) for spec in dataclasses.fields(scaling)}
        found = {key: value for key, value in found.items() if value is not None}
        trained = found.pop("original_max_positions", None)
        if isinstance(scaling, DynamicScaling):
            values["max_position_embeddings"] = trained
        elif trained is not None:
            found[TRAINED] = trained
            values["max_position_embeddings"] = math.ceil(trained * scaling.factor)
        values["rope_scaling"] = {"rope_type": kind, **found}
    return values


def _scaling(rope: Mapping[str, Any], values: Mapping[str, Any]) -> ScalingConfig | None:
    kind = said_once("rope_type", rope, rope, "type")
    kind = "default" if kind is None else kind
    trained = rope.get(TRAINED)  # which some kinds have and do not use
    if kind == "default":
        _refuse_others(rope, KEYS, kind)
        return None
    if kind not in SCALINGS:
        raise UserError(f"config.json: rope_type is {shown(kind)}; {suggest(kind, SCALINGS)}")
    cls = SCALINGS[kind]
    fields = {spec.name for spec in dataclasses.fields(cls)}
    known = KEYS | fields | (YARN_KEYS if cls is YarnScaling else set())
    _refuse_others(rope, known, kind)
    found = {key: rope[key] for key in fields & rope.keys() if rope[key] is not None}
    longest = values.get("max_position_embeddings")
    if cls is DynamicScaling:
        trained = longest
    elif "original_max_positions" in fields:
        trained = said_once(TRAINED, rope, values) or longest
    if "original_max_positions" in fields and trained is not None:
        found["original_max_positions"] = trained
        found.setdefault("factor", (longest or trained) / trained)
    missing = [s.name for s in dataclasses.fields(cls) if _required(s) and s.name not in found]
    if missing:
        word = "max_position_embeddings" if cls is DynamicScaling else TRAINED
        word = word if missing[0] == "original_max_positions" else missing[0]
        raise UserError(f"config.json: the {kind} scaling lacks {word}; add it")
    if cls is YarnScaling and rope.get("mscale_all_dim") and rope.get("mscale"):
        log = 0.1 * math.log(found["factor"])
        ratio = (log * rope["mscale"] + 1) / (log * rope["mscale_all_dim"] + 1)
        found.setdefault("attention_factor", ratio)
    return cls(**found)


def _refuse_others(rope: Mapping[str, Any], known: set[str], kind: str) -> None:
    others = sorted(k for k in rope.keys() - known if rope[k] is not None and rope[k] is not False)
    if others:
        raise UserError(
            f"config.json: {others[0]} is {shown(rope[others[0]])} in the {kind} scaling, which "
            "has no such key; remove it if it is of no account"
        )


def _required(spec: dataclasses.Field) -> bool:
    return spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
