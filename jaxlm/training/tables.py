"""The common part of learners whose state is the model's tables, all of them trained in place.

The state is {step, params: the tables, bad_steps}, and what a learner adds to it in `init`. An
array below `params` or `opt_state` is split as the parameter of that path, any other is replicated.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import mesh as meshes
from jaxlm.checkpoint.state_io import ArrayInfo
from jaxlm.core.config import UserError, type_name
from jaxlm.optim.base import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.training.learner import Frozen, Learner
from jaxlm.training.state import State, with_shardings

SPLIT = ("params", "opt_state")


class TableLearner(Learner):
    """Changes tables without the gradient of all of them."""

    def init(self, params: dict[str, Any]) -> State:
        """The state at step 0, traceable."""
        zero = jnp.zeros((), jnp.int32)
        return {"step": zero, "params": params, "bad_steps": zero}

    def create(self, params: dict[str, Any] | None = None) -> State:
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state())
        if params is None:
            params = self.program.draw()
        return jax.jit(self.init, out_shardings=shardings)(params)

    def abstract_state(self, stored: Mapping[str, ArrayInfo] | None = None) -> State:
        params = self.program.abstract_params
        if stored is not None:
            params = self.as_stored(params, stored, "params")
        shapes = jax.eval_shape(self.init, params)
        shardings = jax.tree.map(lambda _: meshes.replicated(self.mesh), shapes)
        split = {part: self.program.param_shardings for part in SPLIT if part in shapes}
        return with_shardings(shapes, {**shardings, **split})

    def weights(self, state: State, frozen: Frozen) -> dict[str, Any]:
        params: dict[str, Any] = state["params"]
        return params


def check_steps_by_rows(config: RunConfig, plain: OptimizerConfig, allowed: Container[str]) -> None:
    """Raises `UserError` for settings that need the gradient of a whole table, or embedded tokens:
    steps read and change a few rows.

    plain: an optimizer of the type that the steps are of, from which the config's may differ in the
    `allowed` settings.
    """
    name, optimizer = type_name(type(config.objective)), config.optimizer
    if not isinstance(optimizer, type(plain)):
        raise UserError(
            f"optimizer.type: objective {name} changes the rows that a step reads, for which there "
            f"is {type_name(type(plain))}; set it to that"
        )
    for setting in fields(optimizer):
        value = getattr(plain, setting.name)
        if setting.name not in allowed and getattr(optimizer, setting.name) != value:
            raise UserError(
                f"optimizer.{setting.name}: would change all rows of a table in each step, and "
                f"objective {name} steps by rows; set it to {json.dumps(value)}"
            )
    if config.adapter is not None:
        raise UserError(f"adapter: objective {name} trains all rows; set it to null")
    if config.train.accumulation != 1:
        raise UserError(
            f"train.accumulation: objective {name} steps by rows, which sums no gradients; set it "
            "to 1"
        )
    if config.train.embedding_noise:
        raise UserError(f"train.embedding_noise: objective {name} embeds no tokens; set it to 0")
