"""Hugging Face config.json files with one wrong value: the part of tools/fuzz.py for imports.

A case is the file of a small model of a family (tests/fixtures/families) in which one key, in an
inner object too, is removed or has another value. No weights are read. It must end in a
`UserError`, or the change must be seen: in the model, whose own config.json then has the value; in
the keys that an import reports as not read; or in a key that is known to shape no model.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxlm.core.config import UserError
from jaxlm.core.errors import shown
from jaxlm.hf.importing import read_config
from jaxlm.hf.token_ids import lacking_ids
from jaxlm.models.families.base import Family
from jaxlm.models.families.shared.values import IDLE, Values
from tests.models.golden_families import CASES, load_case

FOLDER = Path("/nowhere")  # that of the config.json, by which errors name it
REMOVED = object()
# Keys that a list of layers overrides, or that matter where layers have a window or a plain ffn.
OVERRIDDEN = {
    "max_window_layers": "layer_types",
    "sliding_window_pattern": "layer_types",
    "_sliding_window_pattern": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
}

# Keys that our files say in another way: the class with its head, layers of experts by their list.
REWRITTEN = {"architectures", "decoder_sparse_step"}

Place = tuple[str, ...]
Act = Callable[[], str | None]


def cases(seed: int, count: int, wrong: Sequence[Any]) -> Iterator[tuple[str, Act]]:
    """`count` cases, each file in turn; `wrong` are values that fit no key, or few."""
    rng = random.Random(f"hf {seed}")
    files = [
        (name, {"architectures": case.config["architectures"], **values})
        for name in CASES
        for case in [load_case(name)]
        for values in (case.config, case.published)
    ]
    for number in range(count):
        name, values = files[number % len(files)]
        places = list(places_of(values))
        place = places[rng.randrange(len(places))]
        value = other_value(get(values, place), rng, wrong)
        text = "removed" if value is REMOVED else shown(value)
        yield f"{name} {'.'.join(place)}={text}", lambda v=values, p=place, w=value: read(v, p, w)


def places_of(values: Mapping[str, Any], place: Place = ()) -> Iterator[Place]:
    for key, value in values.items():
        yield (*place, key)
        if isinstance(value, dict):
            yield from places_of(value, (*place, key))


def get(values: Any, place: Place) -> Any:
    for key in place:
        values = values[key]
    return values


def other_value(value: Any, rng: random.Random, wrong: Sequence[Any]) -> Any:
    """Another value of the same kind in most cases, else one of those that are wrong anywhere."""
    near: list[Any] = [REMOVED, None]
    if isinstance(value, bool):
        near += [not value]
    elif isinstance(value, int | float):
        near += [value + 1, value * 2, value / 2, -value, 10**12]
    elif isinstance(value, str):
        near += [value.upper(), value + "x"]
    elif isinstance(value, list):
        near += [value[:-1], value + value[-1:], value[::-1], [*value[:-1], None]]
    elif isinstance(value, dict):
        near += [{**value, "unknown": 1.5}, {}]
    return rng.choice(near if rng.random() < 0.6 else wrong)


def read(values: Mapping[str, Any], place: Place, value: Any) -> str | None:
    """Reads the file with another value; what is wrong with what becomes of it."""
    changed = copy.deepcopy(dict(values))
    inner = get(changed, place[:-1])
    before = inner.pop(place[-1])
    if value is not REMOVED:
        inner[place[-1]] = copy.deepcopy(value)
    _, model = read_config(FOLDER / "config.json", values)
    looked = Values(changed)
    family, found = read_config(FOLDER / "config.json", looked)
    assert found.vocab_size is not None
    lacking_ids(FOLDER, changed, found.vocab_size)
    if value is REMOVED or value is None or value == {} or same(value, before):
        return None  # the default of the class, or what was there
    if found == model:
        return (
            None if seen(looked, family, place, found) else "changes nothing, and no line says so"
        )
    return said_again(family, found, place, value)


def same(value: Any, other: Any) -> bool:
    """Whether two values mean the same: 1 is 1.0 and true, a large number may be rounded."""
    if isinstance(value, int | float) and isinstance(other, int | float):
        return math.isclose(value, other, rel_tol=1e-9) if abs(value) < 1e300 else value == other
    if isinstance(value, list) and isinstance(other, list) and len(value) > len(other):
        return set(map(repr, value)) == set(map(repr, other))  # a layer that is named twice
    return value == other


def seen(looked: Values, family: Family, place: Place, model: Any) -> bool:
    """Whether an import reports the key, or it has no effect next to the others of the file."""
    key, values = place[-1], looked.plain
    if (
        key in IDLE
        or key in family.idle
        or looked.unread(family.idle).keys()
        & {".".join(place[: end + 1]) for end in range(len(place))}
    ):
        return True
    if get(values, place) is False and ".".join(place) not in looked.seen:
        return True
    if key in OVERRIDDEN:
        return values.get(OVERRIDDEN[key]) is not None or not values.get("use_sliding_window")
    if key in ("sliding_window", "use_sliding_window"):
        return not any(model.attention.windows)
    return key == "intermediate_size" and hasattr(model.ffn, "num_experts")


def said_again(family: Family, model: Any, place: Place, value: Any) -> str | None:
    """Whether the model's own config.json has the value, where that has the key."""
    try:
        written = family.to_hf(model)
    except UserError:
        return None  # a model of this family that its files cannot say is one of a run
    (key, *inner) = place
    if inner or key not in written or key in REWRITTEN or same(written[key], value):
        return None
    return f"comes in as {shown(written[key])}"
