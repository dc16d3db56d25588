"""The interface of an adapter: it may add parameters to a model, and says which are trained.

    adapter: {type: lora, rank: 8}             # in a run's YAML
    adapter: {type: freeze, train: ["norm"]}

A parameter that an adapter does not train is frozen: it has no gradient, no optimizer state, no
moving average and no copy in a checkpoint. A checkpoint names the weights that it continues
(`jaxlm.training.base`). The head of a task, such as a classifier's, is trained in full with every
adapter.

A new adapter is one file of this folder: a frozen dataclass derived from `Adapter`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from jaxlm.core.config import Config, Kind, UserError
from jaxlm.core.errors import few, shown

if TYPE_CHECKING:
    from flax import nnx


class LowRankSettings(Protocol):
    """The settings of an adapter whose parameters are an A and a B beside each kernel."""

    @property
    def dropout(self) -> float: ...

    @property
    def rslora(self) -> bool:
        """Whether the scale is alpha / sqrt(rank), not alpha / rank."""
        ...

    def settings(self, paths: Iterable[str]) -> dict[str, tuple[int, float]]:
        """{path: (rank, scale)} of adapted modules."""
        ...


@dataclass(frozen=True, kw_only=True)
class Adapter(Config):
    """The trained parameters of a model, and those added to it."""

    kind: ClassVar = Kind("adapters", "adapter", folder="jaxlm.adapters")

    def apply(self, model: Any, *, rngs: nnx.Rngs) -> None:
        """Adds the adapter's own parameters to a model (an NNX module), in place.

        Raises `UserError` where the model has nothing that the adapter is for.
        """

    def trains(self, path: str) -> bool:
        """Whether the parameter at a "/"-joined path is trained."""
        raise NotImplementedError

    @property
    def off(self) -> Adapter | None:
        """The adapter with which the model is what it was before training, its frozen parameters
        as they are with this one; None: the model without an adapter is that.
        """
        return None

    @property
    def low_rank(self) -> LowRankSettings | None:
        """The settings in PEFT's files for an A and a B beside each kernel (`jaxlm.adapters.lora`),
        where these are the adapter's parameters; None: it has others, or none.
        """
        return None

    def check(self, paths: Sequence[str]) -> None:
        """Raises `UserError` where the adapter does not fit a model with these parameters."""

    def remarks(self, axes: Mapping[str, Sequence[str | None]]) -> list[str]:
        """The log's warnings about what a trained adapter cannot be used for; axes: {path: logical
        axes} of the model's parameters, with the adapter's own.
        """
        return []

    def merge(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters of the model without the adapter that computes the same (traceable)."""
        return params


def check_patterns(key: str, patterns: Iterable[str]) -> None:
    """Raises `UserError` for a text that is not a regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"{key}: {shown(pattern)} is not a regular expression ({error}); correct it"
            ) from None


def no_match(key: str, pattern: str, paths: Sequence[str]) -> UserError:
    """The error for a pattern that matches none of these paths; it names the nearest."""
    words = set(re.findall(r"\w+", pattern))
    names = {word for path in paths for word in path.split("/")}
    near = {n for word in words for n in difflib.get_close_matches(word, names, n=2, cutoff=0.6)}
    found = [path for path in paths if near & set(path.split("/"))] or list(paths)
    return UserError(f"{key}: {shown(pattern)} matches nothing; there are {few(found, 6)}")
