"""The modules of a model that a pattern names.

    query                      the last parts of a path
    layers/attention/(query|value)   a regular expression for them
    q_proj                     the module's name in published models of PyTorch
    all-linear                 every kernel but the output embedding; no table of embeddings

A path is that of a module, such as layers/attention/query: the layers of a stack share it. A
published name (`PUBLISHED`) is used only where no module of the model has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from jaxlm.adapters.base import no_match

ALL = "all-linear"
_OUT, _QKV = "(attention|cross)/out", "(attention|cross)/(query|key|value)"
PUBLISHED = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "o_proj": _OUT,
    "out_proj": _OUT,
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "c_attn": _QKV,
    "c_proj": f"({_OUT}|down)",
    "c_fc": "up",
    "query_key_value": _QKV,
    "dense_h_to_4h": "(gate|up)",
    "dense_4h_to_h": "down",
    "gate_up_proj": "(gate|up)",
    "q": "query",
    "k": "key",
    "v": "value",
    "o": _OUT,
    "wi": "up",
    "wi_0": "gate",
    "wi_1": "up",
    "wo": "down",
    "embed_tokens": "embed",
    "word_embeddings": "embed",
    "wte": "embed",
    "shared": "embed",
}


def matches(pattern: str, path: str) -> bool:
    """Whether a path, or its last parts, match a pattern in full."""
    return re.fullmatch(rf"(.*/)?(?:{pattern})", path) is not None


def chosen(
    key: str, patterns: Iterable[str], linear: Iterable[str], others: Iterable[str] = ()
) -> set[str]:
    """The paths that patterns name.

    linear: the modules that `all-linear` names; others: those that are named by a pattern alone.
    Raises `UserError` for a pattern that names none; `key` is that of the config.
    """
    linear, others = list(linear), list(others)
    found: set[str] = set()
    for pattern in patterns:
        found |= set(linear) if pattern == ALL else named(key, pattern, [*linear, *others])
    return found


def named(key: str, pattern: str, paths: Iterable[str]) -> set[str]:
    """The paths that a pattern names. Raises `UserError` where no path matches."""
    paths = list(paths)
    for text in (pattern, PUBLISHED.get(pattern)):
        found = {path for path in paths if text is not None and matches(text, path)}
        if found:
            return found
    raise no_match(key, pattern, sorted(paths))


def by_pattern(key: str, values: Mapping[str, float], paths: Iterable[str]) -> dict[str, float]:
    """{path: value} of the paths that the patterns of a mapping name; the first one counts.

    Raises `UserError` for a pattern that names none.
    """
    paths = list(paths)
    out: dict[str, float] = {}
    for pattern, value in values.items():
        out = {path: value for path in named(f"{key}.{pattern}", pattern, paths)} | out
    return out
