"""An objective: a model's head, a host transform and a device loss, under one name.

A new objective is one file: a frozen config that derives from `Objective`; `jaxlm.core.registry`
says where it may be. Losses and metrics are sums with their weights; the train step alone divides,
after all reductions.

What an objective draws on the host (masks, spans) is a pure function of the run's seed and the
row's place in the endless order of rows, which says its epoch too: no number of hosts, workers or
restarts changes it, and a row that comes again is drawn again. An evaluation passes once over its
rows, with a seed of its own, and so always meets the same ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from jaxlm.core.config import Config, Kind, UserError, field, type_name
from jaxlm.core.measures import Measure, ratios
from jaxlm.core.rows import RowSpec

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from jaxlm.core.types import Batch, Cache, Metrics, ModelConfig, RowDataset, Tokenizer
    from jaxlm.tasks.base import Task

Transform = Callable[[Mapping[str, Any], int], dict[str, Any]]

_OF_THREAD = threading.local()  # rng: the RandomState of `record_rng`

LOSS = Measure("loss", better="lower", show="headline", format=".3f")


class Loss(NamedTuple):
    """Sums over the batch; `loss_sum / weight` is what is minimised."""

    loss_sum: jax.Array  # scalar, float32
    weight: jax.Array  # scalar, float32
    metrics: Metrics
    cache: Cache | None  # the recurrent state after the batch, where one is carried
    load: Any = None  # the model's `Output.load`


@dataclass(frozen=True, kw_only=True)
class FrozenModel(Config):
    """A model beside the trained one that does not change: a reference, or a teacher."""

    from_: str | None = field(
        None, "run directory of its weights; null: the weights that this run starts from", path=True
    )
    step: int | None = field(None, "checkpoint of that run; null: the last", ge=0)
    use_ema: bool = field(True, "take the averaged weights, if that run has them")

    def validate(self) -> None:
        if self.from_ is not None:
            return
        for name, default in (("step", None), ("use_ema", True)):
            if getattr(self, name) != default:
                raise UserError(
                    f"{name}: from is null, so no other run is read; set from to a run directory, "
                    f"or remove {name}"
                )


@dataclass(frozen=True, kw_only=True)
class Objective(Config):
    """An objective: a host transform and a device loss under one name."""

    kind: ClassVar = Kind("objectives", "objective", folder="jaxlm.objectives")
    # module:Class of the `Learner` that trains it
    learner: ClassVar[str] = "jaxlm.training.learner:GradientLearner"
    descends: ClassVar[bool] = True  # whether it is trained by an optimizer
    cpu_threads: ClassVar[int | None] = None  # the fastest number for its steps; None: all cores
    on_policy: ClassVar[bool] = False  # whether it learns from texts that the model writes
    displays: ClassVar[tuple[Measure, ...]] = (LOSS,)  # how measures are shown, the main one first
    # Whether its model may be a backbone, whose config.json names a class without a head.
    headless: ClassVar[bool] = False
    least_rows: ClassVar[int] = 1  # of a batch: fewer have no loss
    marked_by: ClassVar[str] = ""  # what the numbers of `marks` are; "": it has none

    # The keys of a dataset's rows that it must have, and those that it uses where they are given.
    needs: ClassVar[tuple[str, ...]] = ("tokens", "segment_ids", "positions")
    uses: ClassVar[tuple[str, ...]] = ()

    def why_silent(self, model: ModelConfig) -> str | None:
        """The reason why the trained model writes no text, as in "fills masks and writes no
        text"; None: it writes.
        """
        return "writes no text"

    @property
    def why_answers(self) -> str | None:
        """The reason why it needs the answers of records, for an error; None: it does not."""
        return "learns the answers of records"

    def check(self, model: ModelConfig) -> None:
        """Raises `UserError` for a model that cannot learn it: what every objective asks for, and
        what `check_model` does.
        """
        if self.descends and not model.descends:
            own, name = type_name(type(self)), type_name(type(model))
            raise UserError(
                f"objective: {own} needs the gradient of a head, and model.type {name} has none; "
                "use an objective that is made for it, or another model"
            )
        if model.gives_bags and self.task_head is None:
            raise UserError(
                f"objective: {type_name(type(self))} reads hidden states, and model.type "
                f"{type_name(type(model))} gives a bag of features; use naive_bayes, or "
                "classification with a head for bags"
            )
        self.check_model(model)

    def check_model(self, model: ModelConfig) -> None:
        """Raises `UserError` for a model that cannot learn this objective in particular."""

    def resolve(self, prepared: Any, model: ModelConfig) -> Objective:
        """The objective with what only the data (`prepared.facts`: classes and the like) and the
        size of the model's vocabulary can tell filled in.
        """
        return self

    def check_resolved(self) -> None:
        """Raises `UserError` where something is not set that `resolve` takes from the data and a
        compiled step needs: a plan reads no data.
        """

    def complete(self, model: ModelConfig) -> ModelConfig:
        """The model's config with what a resolved objective decides of it (which ids are blanks)"""
        return model

    @property
    def task_head(self) -> Any:
        """The config of the head beside the language model (`jaxlm.nn.heads`); None: no head."""
        return None

    @property
    def references(self) -> Mapping[str, FrozenModel]:
        """The frozen models that `loss_beside` needs, by name, which are fields of these names.
        They are not trained and not saved: a checkpoint names them.
        """
        return {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of what a head scores, in the order of its scores."""
        return ()

    @property
    def own_task(self) -> Task | None:
        """The task of a model that was imported without data; None: it is not known."""
        return None

    @property
    def several(self) -> bool:
        """Whether a row may have several of the labels."""
        return False

    @property
    def train_displays(self) -> tuple[Measure, ...]:
        """The displays of train-step metrics that only this objective has; others are not shown."""
        return ()

    def asking(self, task: Task) -> Task:
        """The task by which records are predicted, of the data's task: another one where the
        objective does not predict what that task's answers are.
        """
        return task

    def arranged(self, rows: RowDataset, batch_size: int) -> RowDataset:
        """The rows of the training batches, from the data's rows: each several times, say."""
        return rows

    def build_model(self, model: ModelConfig, *, rngs: nnx.Rngs) -> Any:
        """The NNX module that is trained: the language model, with the objective's head."""
        raise NotImplementedError

    def host_transform(self, tokenizer: Tokenizer, seed: int) -> Transform:
        """A function from a raw row of the data, and its place in the order of rows, to a row of
        the batch (numpy, on the host). What it draws follows from `seed` and that place alone.
        """
        raise NotImplementedError

    def transform_spec(self, rows: RowSpec) -> RowSpec:
        """The spec of what the host transform makes of rows of this spec; known without data."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Batch, *, key: jax.Array | None, cache: Cache | None) -> Loss:
        """Sums over one batch; `key` switches dropout on."""
        raise NotImplementedError

    def over_batch(
        self, model: Any, beside: Mapping[str, Any], batch: Batch, *, parts: int = 1
    ) -> Batch:
        """The batch of a whole step, before it is cut into micro-batches, with what the loss needs
        of all its rows together: more keys [B, ...]. They have no gradient.

        parts: into how many micro-batches the memory needs the rows to be cut; a divisor of B.
        """
        return batch

    def loss_beside(
        self,
        model: Any,
        beside: Mapping[str, Any],
        batch: Batch,
        *,
        key: jax.Array | None,
        cache: Cache | None,
    ) -> Loss:
        """`loss`, for an objective that has `references`: `beside` are these models, by name."""
        return self.loss(model, batch, key=key, cache=cache)

    def flops_per_token(self, model: Any, seq_len: int) -> float:
        """Forward FLOPs for each token of a batch's `segment_ids`, for rows of `data.seq_len`.

        Causal attention counts the half of all pairs that it is of.
        """
        return model.flops_per_token(seq_len, is_causal=True)

    def used_parameters(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters that the trained model answers with: without tables that only counting
        needs.
        """
        return params

    def predict(self, model: Any, batch: Batch) -> Mapping[str, jax.Array]:
        """The model's predictions for each row of a batch, by name; the first dim of each is B.

        Without dropout; it runs on the devices, inside of `jax.jit`. Raises `UserError` where the
        objective predicts nothing for rows.
        """
        raise UserError(
            f"objective: {type_name(type(self))} predicts nothing for records; use one with a "
            "head, such as classification"
        )

    def marks(self, model: Any, tokens: jax.Array) -> jax.Array:
        """A number int32, 0 or more, for each token of texts [B, T], by which a report colours the
        samples; it is that of `marked_by`. It runs inside of `jax.jit`.
        """
        raise NotImplementedError

    def findings(self, model: Any, tokenizer: Tokenizer) -> dict[str, Any]:
        """What the trained parameters say in plain values: more keys of result.json, which a
        section of the report shows. Called after the last step, in all processes.
        """
        return {}

    def measures(self, sums: Mapping[str, tuple[Any, Any]]) -> list[Measure]:
        """The measures that are reported of a whole evaluation's sums, the main measure first.

        By default each sum divided by its weight, shown as `displays` says.
        """
        return ratios(sums, self.displays)


def record_rng(seed: int, index: int) -> np.random.RandomState:
    """The draws of one row, until the next call in this thread. A RandomState's are the same in
    every version of numpy, so that a run that is resumed after an upgrade continues as it would
    have. A thread has one, since making it takes ten times as long as its new seed.
    """
    if (rng := getattr(_OF_THREAD, "rng", None)) is None:
        rng = _OF_THREAD.rng = np.random.RandomState()
    rng.seed([seed, index & 0xFFFFFFFF, index >> 32])
    return rng


def text_ids(tokenizer: Tokenizer) -> np.ndarray:
    """[V] bool: ids of text: not special ones, not padding."""
    return np.array([bool(piece) for piece in tokenizer.token_bytes])
