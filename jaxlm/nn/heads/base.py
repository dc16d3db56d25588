"""A head beside a language model: it scores classes, tokens or spans from the hidden states.

The model that is trained is the language model itself with the head as one more child,
`task_head`. So the model's parameters have the paths that they have without a head, and the weights
of a pretrained model load as they are:

    model = beside(config.build(V, rngs=rngs), Classify(pool="mean"), num_labels=2, rngs=rngs)
    out = model(tokens, positions=positions, segment_ids=segment_ids)
    scores = model.task_head(model, out.hidden, segment_ids)        # [B, C] float32

A head is a part: a file of this folder, or a class of a package or of one's own. Its scores are
float32, whatever dtype the model computes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.core.config import Config, Kind, field
from jaxlm.nn.dropout import dropout

NAME = "task_head"  # the head's place in the model, and the first part of its parameters' paths


@dataclass(frozen=True, kw_only=True)
class TaskHeadConfig(Config):
    """A head beside a language model."""

    kind: ClassVar = Kind("heads", "head", folder="jaxlm.nn.heads")
    objective: ClassVar[str] = "none"  # the type of the objective that an imported head is for
    scores_labels: ClassVar[bool] = True  # whether its scores are those of labels that have names
    reads_bags: ClassVar[bool] = False  # whether it scores `jaxlm.nn.bags`, not hidden states
    is_counted: ClassVar[bool] = False  # whether it consists of counts, which have no gradient
    tables: ClassVar[tuple[str, ...]] = ()  # its parameters that are counted in a pass over texts

    dropout: float = field(0.1, "dropout on what is scored", ge=0, lt=1)
    bias: bool = field(True, "a bias for each score")

    def check_model(self, model: Any) -> None:
        """Raises `UserError` where a model, given as its config, cannot have this head."""

    @property
    def for_number(self) -> TaskHeadConfig | None:
        """The head that a class of transformers with this one has for a label that is a number;
        None: it has no other head.
        """
        return None

    def objective_of(self, several: bool) -> str:
        """`objective`, of an imported head by which a row may have several labels."""
        return self.objective

    def hf_labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The names of a config.json's `id2label`, in order; empty: it has no such key."""
        return tuple(labels) if self.scores_labels else ()

    def problem_type(self, several: bool) -> str | None:
        """A config.json's `problem_type`; None: it has no such key."""
        return None

    def build(self, dim: int, num_labels: int, *, rngs: nnx.Rngs) -> TaskHead:
        """The head for hidden states of size `dim`."""
        raise NotImplementedError


class TaskHead(nnx.Module):
    """A linear map [D, C] from hidden states, or from a vector made of them, to scores."""

    def __init__(
        self, config: TaskHeadConfig, dim: int, num_labels: int, *, rngs: nnx.Rngs
    ) -> None:
        kernel = dim**-0.5 * jax.random.normal(rngs.params(), (dim, num_labels))
        self.kernel = nnx.Param(kernel, axes=("embed", "labels"))  # [D, C]
        zeros = jnp.zeros(num_labels)
        self.bias = nnx.Param(zeros, axes=("labels",)) if config.bias else None
        self.rate = config.dropout

    def __call__(
        self,
        model: Any,  # the language model that this head is beside
        hidden: jax.Array,  # [B, T, D]
        segment_ids: jax.Array,  # [B, T], 0 is padding
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Float32 scores; `key` switches dropout on."""
        raise NotImplementedError

    def predict(self, scores: jax.Array, segment_ids: jax.Array) -> Mapping[str, jax.Array]:
        """The predictions from the scores, by name; each array has rows as its first dim."""
        raise NotImplementedError

    def losses(
        self,
        scores: jax.Array,  # [B, C]
        targets: jax.Array,  # [B, C]: 1 at the class of a row; less with smoothed labels
    ) -> jax.Array:
        """[B]: what is minimised of each row, where classes are scored: the cross-entropy."""
        return -(targets * jax.nn.log_softmax(scores)).sum(-1)

    def penalties(self) -> Mapping[str, jax.Array]:
        """What is added to the mean loss of a batch, by name, such as the square of the weights."""
        return {}

    def score(self, x: jax.Array, key: jax.Array | None) -> jax.Array:  # [..., D] -> [..., C]
        scores = dropout(x, self.rate, key) @ self.kernel[...]
        return scores if self.bias is None else scores + self.bias[...]

    def matmul_flops(self) -> float:
        """Forward FLOPs a token; a head that scores a row once counts none."""
        return 0.0


def beside(model: Any, head: TaskHeadConfig, num_labels: int, *, rngs: nnx.Rngs) -> Any:
    """The language model with a head, whose parameters are drawn after the model's."""
    dim = model.config.output_size
    setattr(model, NAME, head.build(dim, num_labels, rngs=rngs))
    return model


def is_of_head(path: str) -> bool:
    """Whether a "/"-path of a parameter is the head's."""
    return path.startswith(f"{NAME}/")
