"""GloVe's weighted least squares on the logarithms of co-occurrences (Pennington et al. 2014).

    model: {type: glove, hidden_size: 50}
    objective: {type: glove}
    optimizer: {type: adagrad}

A cell with count X has the loss

    f(X) (w . c + bias_w + bias_c - log X)^2 / 2,        f(X) = min(1, (X / x_max) ^ alpha)

and changes the vectors and biases of its two words alone: the learner steps by rows
(`jaxlm.training.by_rows`). The constants, and the steps of the biases, which have a rate of their
own, are those of GloVe's code. The loss that is shown is the mean over cells, as in that code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core.config import UserError, field
from jaxlm.core.measures import Measure
from jaxlm.core.rows import RowSpec
from jaxlm.models.glove import GloveConfig
from jaxlm.objectives.base import Loss, Objective, Transform
from jaxlm.objectives.by_rows import RowGradient

if TYPE_CHECKING:
    from flax import nnx

    from jaxlm.core.types import Batch, Cache, ModelConfig, Tokenizer

LOSS = Measure("loss", better="lower", show="headline", format=".4f")


@dataclass(frozen=True, kw_only=True)
class Glove(Objective):
    """The logarithms of co-occurrences as products of vectors."""

    learner: ClassVar[str] = "jaxlm.training.by_rows:RowLearner"
    displays: ClassVar[tuple[Measure, ...]] = (LOSS,)
    needs: ClassVar[tuple[str, ...]] = ("rows", "columns", "counts", "segment_ids")

    x_max: float = field(100.0, "the count from which on a cell has the whole weight", gt=0)
    alpha: float = field(0.75, "exponent of the weights of smaller counts", gt=0)
    bias_rate: float = field(1.0, "learning rate of the biases", gt=0)

    def check_model(self, model: ModelConfig) -> None:
        if not isinstance(model, GloveConfig):
            raise UserError(
                "objective: glove trains two tables of vectors; set model.type to glove"
            )

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> Any:
        return model.build(model.vocab_size, rngs=rngs)

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        names = self.needs
        return lambda row, index: {name: row[name] for name in names}

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        return rows

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        return model.flops_per_token(seq_len)

    def loss(self, model: Any, batch: Batch, *, key: Any, cache: Cache | None) -> Loss:
        words, contexts = model.words.get_value(), model.contexts.get_value()
        w = jnp.take(words, batch["rows"], axis=0)
        c = jnp.take(contexts, batch["columns"], axis=0)
        total, weight, _ = self._errors(model, batch, w, c)
        return Loss(total, weight, {"loss": (total, weight)}, cache)

    def row_gradients(self, model: Any, batch: Batch) -> tuple[Loss, list[RowGradient]]:
        """The loss of a batch, and the gradients of the rows that its cells have."""
        rows, columns = batch["rows"].ravel(), batch["columns"].ravel()
        w = jnp.take(model.words.get_value(), batch["rows"], axis=0)
        c = jnp.take(model.contexts.get_value(), batch["columns"], axis=0)
        total, weight, error = self._errors(model, batch, w, c)
        flat = error.ravel()
        size = w.shape[-1]
        changes = [
            RowGradient("words", rows, flat[:, None] * c.reshape(-1, size)),
            RowGradient("contexts", columns, flat[:, None] * w.reshape(-1, size)),
            RowGradient("word_bias", rows, flat, self.bias_rate),
            RowGradient("context_bias", columns, flat, self.bias_rate),
        ]
        return Loss(total, weight, {"loss": (total, weight)}, None), changes

    def _errors(
        self, model: Any, batch: Mapping[str, jax.Array], w: jax.Array, c: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(sum of the losses, number of cells, weighted error [B, T] of each)."""
        real = batch["counts"] > 0
        counts = jnp.where(real, batch["counts"], 1.0)
        biases = model.word_bias.get_value()[batch["rows"]]
        biases += model.context_bias.get_value()[batch["columns"]]
        error = (w * c).sum(-1) + biases - jnp.log(counts)
        weight = jnp.minimum(1.0, (counts / self.x_max) ** self.alpha)
        weighted = jnp.where(real, weight * error, 0.0)
        return 0.5 * (weighted * error).sum(), real.sum().astype(jnp.float32), weighted
