"""Naive Bayes: the most probable class of a text, from counts of its features in each class.

    tokenizer: {type: words}
    model: {type: bag_of_words, ngrams: 2}
    objective: {type: naive_bayes, head: {type: multinomial, alpha: 1.0}}
    optimizer: null
    train: {epochs: 1, batch_size: 256}

Each training record is counted once, however often it is read: more epochs, another order or other
devices give the same tables. The loss is the mean of -log p(class | text); before the first step
all classes are equally probable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError, field
from jaxlm.core.rows import Entry, RowSpec
from jaxlm.nn.heads.base import NAME, TaskHeadConfig
from jaxlm.nn.heads.multinomial import Multinomial
from jaxlm.objectives.base import Transform
from jaxlm.objectives.classification import Classification
from jaxlm.objectives.counting import Counting, Tables

if TYPE_CHECKING:
    from jaxlm.core.types import Tokenizer


@dataclass(frozen=True, kw_only=True)
class NaiveBayes(Counting, Classification):
    """Count the features of the texts of each class."""

    head: TaskHeadConfig = field(Multinomial, "the tables that are counted for each class")

    def validate(self) -> None:
        if self.label_smoothing:
            raise UserError("label_smoothing: counts have none; leave it out")

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        shared = super().host_transform(tokenizer, seed)

        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            return {**shared(row, index), "row": np.int32(row["id"])}

        return transform

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        made = super().transform_spec(rows)
        return RowSpec({**dict(made.items()), "row": Entry(())}, **made.sizes)

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        return 0.0

    def count_with(self, model: Any, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        own, rows = tables[NAME], batch["row"]
        # a batch over the end of an epoch may have a row twice
        twice = jnp.triu(rows[:, None] == rows, 1).any(0)
        read = jnp.take(own["read"], rows, mode="fill", fill_value=0) > 0
        counts = batch["example_weights"] * ~(read | twice)
        classes = jax.nn.one_hot(batch["labels"], len(self.classes)) * counts[:, None]
        bag = self.output_of(model, batch).hidden
        added = model.task_head.add(own, bag, classes)
        place = jnp.where(batch["example_weights"] > 0, rows, len(own["read"]))
        read = own["read"].at[place].set(1, mode="drop")
        return {**tables, NAME: {**added, "read": read}}

    def grow(self, tables: Tables, batch: Mapping[str, jax.Array]) -> Tables:
        read, need = tables[NAME]["read"], meshes.largest(batch["row"]) + 1
        if need <= len(read):
            return tables
        room = 1 << max(need - 1, 1).bit_length()
        return {**tables, NAME: {**tables[NAME], "read": meshes.padded(read, (room,))}}
