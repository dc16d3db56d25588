"""The learner of models that consist of counts: each batch is added to tables once.

The state is {step, params: the tables, bad_steps: 0}. What is counted, and when tables grow, is the
objective's (`jaxlm.objectives.counting.Counting`). Tables that grew are restored in the shapes that
their checkpoint has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from jaxlm.checkpoint.state_io import ArrayInfo
from jaxlm.core.config import UserError
from jaxlm.core.tree import map_with_path
from jaxlm.data.store.prepared import Prepared
from jaxlm.objectives.counting import Counting, Tables
from jaxlm.run import RunConfig
from jaxlm.training.compiler import compile_with
from jaxlm.training.learner import Frozen, Learner, Step
from jaxlm.training.program import Program
from jaxlm.training.state import State
from jaxlm.training.tables import TableLearner

log = logging.getLogger("jaxlm")


class CountingLearner(TableLearner):
    """Adds the counts of each batch to the state."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        assert isinstance(program.objective, Counting), type(program.objective)
        self.objective: Counting = program.objective
        self.data: tuple[RunConfig, Prepared] | None = None  # what it counts

    @classmethod
    def of(cls, config: RunConfig, program: Program) -> Learner:
        if config.adapter is not None:
            raise UserError("adapter: a model that is counted has no gradient; set it to null")
        return cls(program)

    @staticmethod
    def as_stored(
        params: dict[str, Any], stored: Mapping[str, ArrayInfo], part: str
    ) -> dict[str, Any]:
        def one(path: str, leaf: Any) -> Any:
            found = stored.get(f"{part}/{path}")
            if found is None or len(found.shape) != len(leaf.shape):
                return leaf  # the reader names it
            return jax.ShapeDtypeStruct(found.shape, leaf.dtype, sharding=leaf.sharding)

        return map_with_path(one, params)

    def step(
        self, state: State, frozen: Frozen, batch: Mapping[str, jax.Array]
    ) -> tuple[State, dict]:
        model = nnx.merge(self.program.graphdef, state["params"])
        tables = self.objective.count_with(model, state["params"], batch)
        metrics = {
            "tokens": ((batch["segment_ids"] > 0).sum(), 1),
            "bad_steps": (state["bad_steps"], 1),
        }
        return {**state, "step": state["step"] + 1, "params": tables}, metrics

    def compile(
        self,
        batch_spec: Mapping[str, jax.ShapeDtypeStruct],
        options: Mapping[str, str] | None = None,
    ) -> Step:
        first = super().compile(batch_spec, options)
        if type(self.objective).grow is Counting.grow:
            return first
        return growing(self, first, self.objective.grow, options)

    def use_data(self, config: RunConfig, prepared: Prepared) -> None:
        self.data = config, prepared
        warn_of_few_steps(config, prepared, self.objective.passes(config.model))
        if self.objective.counts_last and config.eval.every_steps is not None:
            log.warning(
                "eval.every_steps: the model is uniform until the last step; set it to null"
            )

    def finish(self, state: State, *, on_part: Callable[[], object] = lambda: None) -> State:
        assert self.data is not None, "use_data"
        tables = self.objective.finish_with(state["params"], *self.data, on_part=on_part)
        tables = jax.tree.map(jax.device_put, tables, self.program.param_shardings)
        return {**state, "params": tables}


def growing(
    learner: Learner,
    first: Step,
    grow: Callable[[Tables, Mapping[str, jax.Array]], Tables],
    options: Mapping[str, str] | None,
) -> Step:
    """A step that makes room in the tables by `grow` before it counts a batch.

    first: the step for the tables as they are at step 0. Those that grew have a step of their own.
    """
    steps = {_shapes(learner.abstract_state()): first}

    def step(state: State, frozen: Frozen, batch: Mapping[str, jax.Array]) -> Any:
        grown = grow(state["params"], batch)
        tables = jax.tree.map(jax.device_put, grown, learner.program.param_shardings)
        state = {**state, "params": tables}
        shapes = _shapes(state)
        if shapes not in steps:
            lowered = learner.jitted().lower(state, frozen, dict(batch))
            steps[shapes] = compile_with(lowered, options or {})
        return steps[shapes](state, frozen, dict(batch))

    return step


def warn_of_few_steps(
    config: RunConfig, prepared: Prepared, passes: int, *, descends: bool = False
) -> None:
    """Warns of a run that ends before its passes over the records, after which it `descends`.

    config: the resolved one.
    """
    batch, steps = config.train.batch_size, config.train.steps or 0
    rows = prepared.rows("train", batch_size=batch, seed=config.seed).rows_per_epoch
    if steps * batch < passes * rows + descends:
        log.warning(
            "train: counting takes %s%s, and the run has %.3g; set train.epochs to %s",
            "1 epoch" if passes == 1 else f"{passes} epochs",
            ", after which the head learns" if descends else "",
            steps * batch / rows,
            f"more than {passes}" if descends else passes,
        )


def _shapes(state: State) -> tuple[tuple[int, ...], ...]:
    return tuple(x.shape for x in jax.tree.leaves(state))
