"""All presets with their sizes, as `jaxlm presets` prints them.

    for row in all_presets():
        print(row.name, row.num_params)

The numbers of parameters are the published ones; the tests compare them with the module trees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jaxlm.models.families import families


class Preset(NamedTuple):
    """A published model."""

    name: str
    family: str
    num_params: int
    num_layers: int
    hidden_size: int
    vocab_size: int


def all_presets() -> Iterator[Preset]:
    """Every preset of every family, in the order of their tables."""
    for family in families():
        for name, config in family.presets.items():
            c: Any = config
            sizes = (c.num_layers, c.hidden_size, c.vocab_size)
            yield Preset(name, family.name, family.num_params[name], *sizes)


def render(presets: Iterable[Preset]) -> str:
    """The table that people read."""
    rows = [["preset", "family", "parameters", "layers", "hidden", "vocabulary"]]
    rows += [[p.name, p.family, *(f"{n:,}" for n in p[2:])] for p in presets]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
