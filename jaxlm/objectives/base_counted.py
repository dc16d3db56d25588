"""The base of objectives that count the features of each training text, over bags of words.

What is counted takes a pass over the records each: the document frequencies of a model with `idf`
first, and then the tables of the head, of the bags that these give. `read` [rows] has the number of
passes that a record was read in, so each is counted once in each, whatever the order of the rows,
the number of epochs and the devices. It is a part of the model, as the tables are: a run that is
cut continues where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.nn.heads.base import NAME
from jaxlm.objectives.base import Transform
from jaxlm.objectives.classification import Classification

if TYPE_CHECKING:
    from jaxlm.core.types import ModelConfig, Tokenizer

Tables = dict[str, Any]  # the model's parameters
READ = "read"


@dataclass(frozen=True, kw_only=True)
class Counted(Classification, abstract=True):
    """The base of objectives that count each training record once a pass."""

    counts_records: ClassVar[bool] = True

    def passes(self, model: ModelConfig) -> int:
        """The passes over the training records that counting takes."""
        return model.passes + bool(self.head.tables)

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> Any:
        built: Any = super().build_model(model, rngs=rngs)
        built.read = nnx.Param(jnp.zeros(1, jnp.int32), axes=("pos",))
        return built

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        shared = super().host_transform(tokenizer, seed)

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            return {**shared(row, index), "row": np.int32(row["id"])}

        return transform

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        made = super().transform_spec(rows)
        return RowSpec({**dict(made.items()), "row": Entry(())}, **made.sizes)

    def times_read(self, tables: Tables, batch: Mapping[str, jax.Array]) -> jax.Array:
        """[B] the passes in which each record was read before."""
        rows, real = batch["row"], batch["example_weights"] > 0
        before = jnp.take(tables[READ], rows, mode="fill", fill_value=0)
        # a batch over the end of an epoch may have a row twice
        same = (rows[:, None] == rows) & real[:, None]
        return before + jnp.triu(same, 1).sum(0)

    def count_with(self, model: Any, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        """The tables with the texts of a batch added, those of them that were not added before.

        model: the module with these tables.
        """
        weights, order = batch["example_weights"], self.times_read(tables, batch)
        own: int = model.config.passes
        if own:
            tables = {**tables, **model.add(tables, batch, weights * (order == 0))}
            model = nnx.merge(nnx.split(model)[0], tables)
        if self.head.tables:
            counts = weights * (order == own)
            classes = jax.nn.one_hot(batch["labels"], len(self.classes)) * counts[:, None]
            bag = self.output_of(model, batch).hidden
            tables = {**tables, NAME: model.task_head.add(tables[NAME], bag, classes)}
        place = jnp.where(weights > 0, batch["row"], len(tables[READ]))
        read = tables[READ].at[place].add(1, mode="drop")
        return {**tables, READ: jnp.minimum(read, self.passes(model.config))}

    def grow(self, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        """The tables with room for the records of a batch."""
        read, need = tables[READ], meshes.largest(batch["row"]) + 1
        if need <= len(read):
            return tables
        room = 1 << max(need - 1, 1).bit_length()
        return {**tables, READ: meshes.padded(read, (room,))}
