"""Classification by a head that descends over what was counted before: tf-idf, NBSVM.

    model: {type: bag_of_words, binary: true}
    objective: {type: counted_first, head: {type: nbsvm}}
    train: {epochs: 20}

The first pass over the training records counts, with a model that has `idf` and a head that has
tables two passes. The head descends in the others: a record has weight 0 in a step that counts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxlm.core.config import field
from jaxlm.nn.heads.base import TaskHeadConfig, is_of_head
from jaxlm.nn.heads.logistic import Logistic
from jaxlm.objectives.base_counted import Counted, Tables

if TYPE_CHECKING:
    import jax

    from jaxlm.core.types import ModelConfig


@dataclass(frozen=True, kw_only=True)
class CountedFirst(Counted):
    """Count in the first pass over the records, and descend in the others."""

    learner: ClassVar[str] = "jaxlm.training.counting_first:CountingFirst"

    head: TaskHeadConfig = field(Logistic, "what scores the classes, beside the model")

    def is_table(self, path: str) -> bool:
        """Whether the parameter of a "/"-path is counted, and has no gradient."""
        return not is_of_head(path) or path.rpartition("/")[2] in self.head.tables

    def learnt(
        self, model: ModelConfig, tables: Tables, batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """The batch with weight 0 for the records that it is counted with.

        tables: as they were before this batch.
        """
        counted = self.times_read(tables, batch) < self.passes(model)
        return {**batch, "example_weights": batch["example_weights"] * ~counted}
