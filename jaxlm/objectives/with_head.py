"""Objectives that learn by a head beside the language model (`jaxlm.nn.heads`).

    objective: {type: classification, head: {type: classify, pool: mean, dropout: 0.3}}

The model that is trained is the language model with the head as its child `task_head`. Rows with
`token_types` (which of two texts a token is of) give them to a model that has such embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm.core.config import UserError, type_name
from jaxlm.core.rows import RowSpec
from jaxlm.nn.dropout import split_key
from jaxlm.nn.flops import matmul_flops
from jaxlm.nn.heads.base import TaskHeadConfig, beside
from jaxlm.objectives.base import Loss, Objective, Transform
from jaxlm.objectives.strongest import strongest

if TYPE_CHECKING:
    from flax import nnx

    from jaxlm.core.types import Batch, Cache, LanguageModel, ModelConfig, Output, Tokenizer

TYPES = "token_types"


@dataclass(frozen=True, kw_only=True)
class HeadObjective(Objective, abstract=True):
    """The base of objectives that learn by a head. Each has the field `head`, and `classes` where
    the head scores names.
    """

    if TYPE_CHECKING:
        head: Any  # TaskHeadConfig

    uses: ClassVar[tuple[str, ...]] = (TYPES,)
    counts_records: ClassVar[bool] = False  # whether each training record is counted once a pass

    @property
    def task_head(self) -> TaskHeadConfig | None:
        return self.head

    @property
    def labels(self) -> tuple[str, ...]:
        return getattr(self, "classes", ())

    def check_model(self, model: ModelConfig) -> None:
        if self.head is None:
            return
        if model.is_encoder_decoder:
            raise UserError(
                f"objective: {type_name(type(self))} has one text, but the model reads a source "
                "and a target; use a model without an encoder of its own"
            )
        if self.head.reads_bags != model.gives_bags:
            kinds = ("hidden states", "a bag of features")
            reads, gives = kinds[self.head.reads_bags], kinds[model.gives_bags]
            own, name = type_name(type(self.head)), type_name(type(model))
            raise UserError(
                f"objective.head: {own} reads {reads}, and model.type {name} gives {gives}; choose "
                f"another {'model' if self.head.reads_bags else 'head, such as logistic'}"
            )
        if self.head.is_counted == self.descends:
            raise UserError(
                f"objective.head: {type_name(type(self.head))} is counted; use objective "
                "naive_bayes, or another head"
                if self.descends
                else f"objective: {type_name(type(self))} counts, and head "
                f"{type_name(type(self.head))} has a gradient; use head multinomial or bernoulli"
            )
        if (model.passes or self.head.tables) and not self.counts_records:
            part = f"model.type {type_name(type(model))} with these settings"
            raise UserError(
                f"objective: {type_name(type(self))} does not count, and "
                f"{part if model.passes else f'head {type_name(type(self.head))}'} is counted "
                "before it is trained; use objective counted_first"
            )
        self.head.check_model(model)

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
        built = model.build(model.vocab_size, rngs=rngs)
        if self.head is None:
            return built
        return beside(built, self.head, len(self.labels), rngs=rngs)

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        """As in the base, without the output embedding: no logits of tokens are computed."""
        whole, unembed = super().flops_per_token(model, seq_len), getattr(model, "unembed", None)
        return whole if unembed is None else whole - matmul_flops(unembed)

    def scores(
        self, model: Any, batch: Batch, key: jax.Array | None = None
    ) -> tuple[jax.Array, Output]:
        """The head's scores, float32, and the model's output; `key` switches dropout on."""
        keys = split_key(key, 2)
        out = self.output_of(model, batch, keys[0])
        scores = model.task_head(model, out.hidden, batch["segment_ids"], keys[1])
        rows = len(batch["segment_ids"])
        more = {name: jnp.full(rows, x) for name, x in model.task_head.penalties().items()}
        return scores, out._replace(losses={**out.losses, **more}) if more else out

    def output_of(self, model: Any, batch: Batch, key: jax.Array | None = None) -> Output:
        """The model's output, which the head reads; `key` switches dropout on."""
        more = {}
        if TYPES in batch and TYPES in model.config.row_keys:
            most = model.config.num_token_types - 1  # RoBERTa has one type
            more[TYPES] = jnp.minimum(batch[TYPES], most)
        return model(
            batch["tokens"],
            positions=batch["positions"],
            segment_ids=batch["segment_ids"],
            key=key,
            **more,
        )

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        def transform(row: Mapping[str, Any], index: int) -> dict[str, Any]:
            return {key: row[key] for key in (*self.needs, *self.uses) if key in row}

        return transform

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        kept = (key for key in (*self.needs, *self.uses) if key in rows)
        return RowSpec({key: rows[key] for key in kept}, **rows.sizes)

    def found_classes(self, prepared: Any) -> tuple[str, ...]:
        """The classes that the task has found. Raises `UserError` where it finds none, or others
        than the objective names.
        """
        name, given = type_name(type(self)), self.labels
        found = tuple(prepared.facts.get("classes", ()))
        if not found:
            raise UserError(
                f"objective: {name} needs classes, and data.task gives none; use a task that "
                "finds them, such as classification"
            )
        if given and given != found:
            raise UserError(
                f"objective.classes: {list(given)} but the data has {list(found)}; "
                "set the same names in the same order, or leave it empty"
            )
        return found

    def check_classes(self) -> None:
        """Raises `UserError` where a plan, which reads no data, is not given the classes."""
        if not self.labels:
            raise UserError(
                "objective.classes: empty, and a plan reads no data; write them down, such as "
                "objective.classes='[negative, positive]'"
            )

    def findings(self, model: Any, tokenizer: Tokenizer) -> dict[str, Any]:
        """The strongest features of each class, where the head scores bags."""
        if not self.head.reads_bags:
            return {}
        found = strongest(model, tokenizer, self.labels)
        return {"strongest": found} if found else {}

    def predict(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """The head's predictions for each row, such as probs [B, C] of the classes."""
        scores, _ = self.scores(model, batch)
        return model.task_head.predict(scores, batch["segment_ids"])


def summed(
    losses: jax.Array,  # [B], or [B, T] of tokens: what is minimised
    weights: jax.Array,  # of the same shape
    metrics: Mapping[str, jax.Array],  # of the same shape
    out: Output,
    cache: Cache | None,
) -> Loss:
    """The sums of a batch, with the router's losses, which are by row."""
    weight = weights.sum()
    sums = {name: ((value * weights).sum(), weight) for name, value in metrics.items()}
    loss_sum = (losses * weights).sum()
    by_row = weights if weights.ndim == 1 else weights.sum(-1)
    for name, value in out.losses.items():
        sums[name] = ((value * by_row).sum(), weight)
        loss_sum += sums[name][0]
    return Loss(loss_sum, weight, sums, cache, out.load)
