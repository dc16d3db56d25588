"""The learner of objectives that count in the first passes over the records and descend after them.

The state is a `GradientLearner`'s, and its `params` have the tables as well. They have no gradient
and no moments: the gradient's part takes them as frozen. A step adds its texts to the tables, then
descends the loss of those that were counted before. A step without such texts counts only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.checkpoint.state_io import ArrayInfo
from jaxlm.core.config import UserError
from jaxlm.core.tree import flatten, join, select
from jaxlm.data.store.prepared import Prepared
from jaxlm.objectives.counted_first import CountedFirst
from jaxlm.optim.base import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.training.counting import CountingLearner, growing, warn_of_few_steps
from jaxlm.training.learner import Frozen, GradientLearner, Learner, Step
from jaxlm.training.program import Program
from jaxlm.training.state import State

PARTS = ("params", "ema")  # of the state, with the parameters


class CountingFirst(Learner):
    """Adds each batch to the tables, and descends the gradient of what was added before."""

    as_stored = staticmethod(CountingLearner.as_stored)

    def __init__(self, program: Program, optimizer: OptimizerConfig, total_steps: int = 1) -> None:
        super().__init__(program)
        self.objective = objective = cast(CountedFirst, program.objective)  # which names it
        self.tables = frozenset(filter(objective.is_table, flatten(program.abstract_params)))
        descended = replace(program, frozen=self.tables)
        self.descent = GradientLearner(descended, optimizer, total_steps)

    @classmethod
    def of(cls, config: RunConfig, program: Program) -> Learner:
        if config.adapter is not None:
            raise UserError(
                "adapter: a model that is counted has no kernels for one; set it to null"
            )
        assert config.optimizer is not None, "RunConfig.validate"
        return cls(program, config.optimizer, config.train.steps or 1)

    def create(self, params: dict[str, Any] | None = None) -> State:
        if params is None:
            params = self.program.draw()
        return self._with_tables(self.descent.create(params), params)

    def abstract_state(self, stored: Mapping[str, ArrayInfo] | None = None) -> State:
        params = self.program.abstract_params
        if stored is not None:
            params = self.as_stored(params, stored, "params")
        return self._with_tables(self.descent.abstract_state(), params)

    def weights(self, state: State, frozen: Frozen) -> dict[str, Any]:
        params: dict[str, Any] = state["ema" if "ema" in state else "params"]
        return params

    def step(
        self, state: State, frozen: Frozen, batch: Mapping[str, jax.Array]
    ) -> tuple[State, dict]:
        params = state["params"]
        model = nnx.merge(self.program.graphdef, params)
        rest = self.objective.learnt(self.program.model, params, batch)
        tables = self._counted(self.objective.count_with(model, params, batch))
        own = {part: self._descended(state[part]) for part in PARTS if part in state}
        before = {**state, **own}

        def descend(before: State) -> tuple[State, dict]:
            return self.descent.step(before, {"base": tables}, rest)

        def count(before: State) -> tuple[State, dict]:
            """The loss is that of the head as it starts."""
            shapes = jax.eval_shape(descend, before)[1]
            metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            found = self.objective.loss(model, batch, key=None, cache=None)
            own = {**found.metrics, "objective": (found.loss_sum, found.weight)}
            return {**before, "step": before["step"] + 1}, {**metrics, **own}

        after, metrics = jax.lax.cond(rest["example_weights"].any(), descend, count, before)
        tokens = ((batch["segment_ids"] > 0).sum(), 1)
        return self._with_tables(after, tables), {**metrics, "tokens": tokens}

    def use_data(self, config: RunConfig, prepared: Prepared) -> None:
        warn_of_few_steps(config, prepared, self.objective.passes(config.model), descends=True)

    def compile(
        self,
        batch_spec: Mapping[str, jax.ShapeDtypeStruct],
        options: Mapping[str, str] | None = None,
    ) -> Step:
        return growing(self, super().compile(batch_spec, options), self.objective.grow, options)

    def _with_tables(self, state: State, params: dict[str, Any]) -> State:
        """A state of what is descended, with the tables of `params`; the average has them too."""
        tables = self._counted(params)
        own = {part: join(state[part], tables) for part in PARTS if part in state}
        return {**state, **own}

    def _counted(self, tree: dict[str, Any]) -> dict[str, Any]:
        return select(tree, self.tables.__contains__)

    def _descended(self, tree: dict[str, Any]) -> dict[str, Any]:
        return select(tree, lambda path: path not in self.tables)
