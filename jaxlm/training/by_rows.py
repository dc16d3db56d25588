"""The learner of tables of which a batch has few rows: it reads and changes those rows alone.

A step costs what its cells cost, whatever the size of the vocabulary. Every cell of a batch sees
the tables of before the step. With s = clip(gradient) * rate the step of one cell for one row is

    row -= s / sqrt(G),        G += s ** 2                       (AdaGrad: `jaxlm.optim.adagrad`)

and where several cells of a batch have the same row, each steps as if it were the last of them: its
G has the squares of the others. So a batch of one cell is a step of GloVe's code, and the order
of the cells in a batch does not matter. All devices compute the same: no number of them changes
the result.

The state is {step, params, opt_state: the G of each parameter, bad_steps}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.core.tree import flatten, unflatten
from jaxlm.objectives.by_rows import HasRowGradients, RowGradient
from jaxlm.optim.adagrad import Adagrad
from jaxlm.run import RunConfig
from jaxlm.training.learner import Frozen, Learner
from jaxlm.training.program import Program
from jaxlm.training.state import State
from jaxlm.training.tables import TableLearner, check_steps_by_rows

OWN = ("learning_rate", "schedule", "clip_value", "initial")  # settings of steps by rows
ROUNDING = 4e-7  # relative, of a sum of squares


class RowLearner(TableLearner):
    """AdaGrad by rows."""

    def __init__(self, program: Program, optimizer: Adagrad, total_steps: int = 1) -> None:
        super().__init__(program)
        self.optimizer = optimizer
        self.factor = optimizer.schedule.build(total_steps)

    @classmethod
    def of(cls, config: RunConfig, program: Program) -> Learner:
        check_steps_by_rows(config, Adagrad(), OWN)
        optimizer = cast(Adagrad, config.optimizer)
        return cls(program, optimizer, config.train.steps or 1)

    def init(self, params: dict[str, Any]) -> State:
        squares = jax.tree.map(lambda p: jnp.full_like(p, self.optimizer.initial), params)
        return {**super().init(params), "opt_state": squares}

    def step(
        self, state: State, frozen: Frozen, batch: Mapping[str, jax.Array]
    ) -> tuple[State, dict]:
        whole = meshes.replicated(self.mesh)
        batch = {n: jax.lax.with_sharding_constraint(x, whole) for n, x in batch.items()}
        params, squares = flatten(state["params"]), flatten(state["opt_state"])
        model = nnx.merge(self.program.graphdef, state["params"])
        objective = cast(HasRowGradients, self.program.objective)
        loss, changes = objective.row_gradients(model, batch)
        good = jnp.isfinite(loss.loss_sum)
        factor = self.factor(state["step"])
        for change in changes:
            table, square = params[change.path], squares[change.path]
            params[change.path], squares[change.path] = self._stepped(
                table, square, change, factor, good
            )
        bad = jnp.where(good, 0, state["bad_steps"] + 1)
        metrics = {
            **loss.metrics,
            "objective": (loss.loss_sum, loss.weight),
            "tokens": ((batch["segment_ids"] > 0).sum(), 1),
            "learning_rate": (self.optimizer.learning_rate * factor, 1),
            "bad_steps": (bad, 1),
        }
        new = {"step": state["step"] + 1, "bad_steps": bad}
        return {**new, "params": unflatten(params), "opt_state": unflatten(squares)}, metrics

    def _stepped(
        self,
        table: jax.Array,
        squares: jax.Array,
        change: RowGradient,
        factor: jax.Array,
        good: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """A table and its sums of squares after a change; as before where the loss is not `good`,
        by rows that do not exist: to choose between whole tables would cost a copy.
        """
        rate = self.optimizer.learning_rate if change.rate is None else change.rate
        index = jnp.where(good, change.rows, len(table))
        step = self.optimizer.clipped(change.gradient) * (rate * factor)
        own = step * step
        before = jnp.take(squares, change.rows, axis=0)
        squares = squares.at[index].add(own, mode="drop")
        after = jnp.take(squares, change.rows, axis=0)
        others = after - before - own
        others = jnp.where(others > ROUNDING * after, others, 0.0)
        return table.at[index].add(-step * jax.lax.rsqrt(before + others), mode="drop"), squares
