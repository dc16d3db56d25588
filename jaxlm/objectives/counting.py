"""An objective whose model is counted, not descended: n-grams, naive Bayes, bags of words.

    @dataclass(frozen=True, kw_only=True)
    class Bigrams(Counting):
        \"\"\"How often each token follows each other token.\"\"\"

        def count(self, tables, batch):
            ...
            return {"counts": tables["counts"].at[tokens, targets].add(weights)}

The tables are the parameters of the model that `build_model` makes, which start as it makes them
(zeros, as a rule). Each batch is added once; `loss` reads the tables like any parameters. The run's
optimizer is null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.objectives.base import Objective

if TYPE_CHECKING:
    import jax

    from jaxlm.core.types import ModelConfig
    from jaxlm.data.store.prepared import Prepared
    from jaxlm.run import RunConfig

Tables = dict[str, Any]  # a nested dict of arrays, as the model's parameters


@dataclass(frozen=True, kw_only=True)
class Counting(Objective, abstract=True):
    """The base of objectives whose model consists of counts."""

    learner: ClassVar[str] = "jaxlm.training.counting:CountingLearner"
    descends: ClassVar[bool] = False
    counts_last: ClassVar[bool] = False  # whether there is no model before `finish`

    def passes(self, model: ModelConfig) -> int:
        """The passes over the training records that counting takes."""
        return 1

    def count(self, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        """The tables with the sums of a batch added, in the same shapes (traceable).

        It must not depend on the order of the rows: they are split over devices.
        """
        raise NotImplementedError

    def count_with(self, model: Any, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        """`count`, for an objective that asks the model which places of its tables a text has.

        model: the module with these tables.
        """
        return self.count(tables, batch)

    def grow(self, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        """Tables with room for what a batch may add, before it is counted (outside of `jax.jit`).

        A table in another shape compiles the step again, so grow by a factor. A checkpoint keeps
        the shapes. A process has a part of the batch only, and all of them need the same shapes:
        `jaxlm.mesh.largest` looks at the whole batch, `jaxlm.mesh.padded` makes room in a table.
        """
        return tables

    def finish(self, tables: Tables) -> Tables:
        """The tables after the last batch (on the host), such as pruned ones. A run that is killed
        after its last save does it again: finished tables must stay as they are.
        """
        return tables

    def finish_with(
        self,
        tables: Tables,
        config: RunConfig,
        prepared: Prepared,
        *,
        on_part: Callable[[], object] = lambda: None,
    ) -> Tables:
        """`finish`, for an objective that reads the training data again.

        config: the resolved one, with the run's folder. on_part: called from time to time; the
        watchdog needs it.
        """
        return self.finish(tables)
