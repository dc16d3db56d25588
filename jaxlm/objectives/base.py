"""What an objective is: a model's head, a host transform and a device loss, under one name.

A new objective is one file: a frozen config that derives from `Objective`, and a line in the
registry. Losses and metrics are sums with their weights; the train step alone divides, after all
reductions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlm.types import ObjectiveConfig

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from jaxlm.types import Batch, Cache, Metrics, ModelConfig, Tokenizer


class Loss(NamedTuple):
    """Sums over the batch; `loss_sum / weight` is what is minimised."""

    loss_sum: jax.Array  # scalar, float32
    weight: jax.Array  # scalar, float32
    metrics: Metrics
    cache: Cache | None  # the recurrent state after the batch, where one is carried
    load: Any = None  # the model's `Output.load`


@dataclass(frozen=True, kw_only=True)
class Objective(ObjectiveConfig):
    """The base of every objective."""

    @property
    def generates(self) -> bool:
        """Whether the trained model writes text."""
        return False

    @property
    def row_kind(self) -> str:
        """The rows it learns from: "tokens" (running text) or "examples" (labelled texts)."""
        return "tokens"

    def resolve(self, prepared: Any) -> Objective:
        """The objective with what only the data can tell (the classes, say) filled in."""
        return self

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> Any:
        """The NNX module that is trained: the language model, or a head over it."""
        raise NotImplementedError

    def host_transform(self, tokenizer: Tokenizer) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """A function from a raw row of the data to a row of the batch (numpy, on the host)."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch, *, key: jax.Array | None, cache: Cache | None) -> Loss:
        """Sums over one batch; `key` switches dropout on."""
        raise NotImplementedError

    def pretrained_path(self, path: str) -> str | None:
        """Where in a pretrained language model `path` comes from; None: it starts fresh."""
        return path

    def summarize(self, metrics: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
        """Figures from sums over a whole evaluation; by default each sum by its weight."""
        return {
            name: float(np.sum(total)) / max(float(weight), 1e-9)
            for name, (total, weight) in metrics.items()
        }

    def tables(self, metrics: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        """What an evaluation shows beyond single figures (a confusion table, say)."""
        return {}
