"""The learner of tables of which a step reads and changes a few rows: word vectors.

The state is {step, params: the tables, bad_steps}. The tables are donated, and the objective adds
its updates to their rows in place (`Windows.update`), so the time of a step does not depend on
their size. Steps are those of plain stochastic gradient descent on a sum: `optimizer` gives the
learning rate and its schedule, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxlm.objectives.base_windows import Windows
from jaxlm.optim.base import OptimizerConfig
from jaxlm.optim.sgd import SGD
from jaxlm.run import RunConfig
from jaxlm.training.learner import Frozen, Learner
from jaxlm.training.program import Program
from jaxlm.training.state import State
from jaxlm.training.tables import TableLearner, check_steps_by_rows

OWN = ("learning_rate", "schedule", "mu_dtype")  # settings of plain descent by rows


class SparseLearner(TableLearner):
    """Adds the updates of each batch to the rows that it reads."""

    def __init__(self, program: Program, optimizer: OptimizerConfig, total_steps: int = 1) -> None:
        super().__init__(program)
        assert isinstance(program.objective, Windows), type(program.objective)
        self.objective: Windows = program.objective
        self.peak = optimizer.learning_rate
        self.schedule = optimizer.schedule.build(total_steps)

    @classmethod
    def of(cls, config: RunConfig, program: Program) -> Learner:
        check_steps_by_rows(config, SGD(clip_norm=None), OWN)
        assert config.optimizer is not None, "RunConfig.validate"
        return cls(program, config.optimizer, config.train.steps or 1)

    def step(
        self, state: State, frozen: Frozen, batch: Mapping[str, jax.Array]
    ) -> tuple[State, dict]:
        rate = self.peak * self.schedule(state["step"])
        tables, sums = self.objective.update(state["params"], batch, rate)
        good = jnp.isfinite(sums["loss"][0])
        bad_steps = jnp.where(good, 0, state["bad_steps"] + 1)
        metrics = {
            **sums,
            "tokens": ((batch["segment_ids"] > 0).sum(), 1),
            "learning_rate": (rate, 1),
            "bad_steps": (bad_steps, 1),
        }
        return {"step": state["step"] + 1, "params": tables, "bad_steps": bad_steps}, metrics
