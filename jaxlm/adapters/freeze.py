"""Train some of a model's parameters and freeze all others.

    adapter: {type: freeze, train: ["norm/scale$", "bias$"]}    # BitFit and the norms
    adapter: {type: freeze, train: ["^(?!embed/)"]}             # all but the embedding
    adapter: {type: freeze}                                     # a new head alone

A pattern is searched in a parameter's path (`re.search`), such as layers/attention/query/kernel.
The layers of a stack share their paths, so they are trained or frozen together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jaxlm.adapters.base import Adapter, check_patterns, no_match
from jaxlm.core.config import field


@dataclass(frozen=True, kw_only=True)
class Freeze(Adapter):
    """Train the parameters that a pattern matches; freeze all others."""

    train: tuple[str, ...] = field(
        (), "regular expressions: the parameters that are trained; new heads always are"
    )

    def validate(self) -> None:
        check_patterns("train", self.train)

    def trains(self, path: str) -> bool:
        return any(re.search(pattern, path) for pattern in self.train)

    def check(self, paths: Sequence[str]) -> None:
        for pattern in self.train:
            if not any(re.search(pattern, path) for path in paths):
                raise no_match("adapter.train", pattern, paths)
