"""Rollouts: what the model writes for the prompts of a batch, as the batch of a train step.

    learner.use_data(config, prepared)
    batch = learner.batch(state, learner.frozen, batch)     # completions of the batch's prompts

The learner of objectives that derive from `jaxlm.objectives.on_policy.OnPolicy`. The generator
reads the weights of the train state where they are, on the same mesh. Its draws follow from the
seed, the step and the place of a completion in the batch: neither the mesh nor a restart changes
them. Each process grades the completions of its own rows, where the objective has rewards. At a
step at which the objective writes nothing, the batch is that of the records' own completions.

Where a rollout serves several steps, the step puts it into the state ("rollout"), so that a
checkpoint between them has what the rest needs.

Packed completions need fewer rows than there are completions, how many depends on their lengths.
The train step is compiled for the batch size, its half, its quarter, ..., each when it is first
needed (`jaxlm.generate.completions`). In the state such a rollout has the batch size: empty rows
follow it, and the steps after the first one leave them out again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError, type_name
from jaxlm.core.tree import join
from jaxlm.data.store.prepared import Prepared
from jaxlm.generate.completions import Completions, rows_for
from jaxlm.nn.pipeline import PipelineSchedule, pipelined
from jaxlm.objectives.base import record_rng
from jaxlm.objectives.on_policy import RECORD, OnPolicy
from jaxlm.optim.base import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.training.ahead import Ahead, Compiling
from jaxlm.training.feed import batch_spec as spec_on_mesh
from jaxlm.training.learner import Frozen, GradientLearner, Learner, Step
from jaxlm.training.program import Program
from jaxlm.training.state import State

KEPT = "rollout"  # the key of a state that has the rollout of several steps


class RolloutLearner(GradientLearner):
    """Descends on what the model wrote itself."""

    def __init__(
        self, program: Program, optimizer: OptimizerConfig, total_steps: int = 1, *, length: int
    ) -> None:
        """length: tokens of a row of the batch."""
        super().__init__(program, optimizer, total_steps)
        assert isinstance(program.objective, OnPolicy), type(program.objective)
        self.objective: OnPolicy = program.objective
        spec = self.objective.rollout_spec(length)
        self._of_rows = {name for name, entry in spec.items() if entry.dims[:1] == ("T",)}
        self._multiple = program.accumulation * meshes.batch_parts(program.mesh)
        self._copied: dict[int, Ahead] = {}  # by the number of rows
        self.rollout_spec = spec_on_mesh(spec, program.batch_size, program.mesh)
        self._completions: Completions | None = None
        self._steps: dict[int, Step] = {}  # by the number of rows, where they are packed
        self._options: Mapping[str, str] | None = None  # of the compiler; None: nothing is compiled

    @classmethod
    def of(cls, config: RunConfig, program: Program) -> Learner:
        objective, size = program.objective, config.train.batch_size
        assert config.optimizer is not None and isinstance(objective, OnPolicy)
        name = type_name(type(objective))
        if size % (group := objective.completions_per_prompt):
            raise UserError(
                f"train.batch_size: {size} completions cannot be cut into groups of {group} "
                "(objective.group_size); set it to a multiple"
            )
        if program.embedding_noise:
            raise UserError(
                f"train.embedding_noise: {name} learns from texts that are written without noise; "
                "set it to 0"
            )
        if objective.packs and config.train.compiled is not None:
            raise UserError(
                "train.compiled: has a step for one number of rows, and packed completions need "
                "several; remove it, or objective.packing"
            )
        if config.data is None:
            raise UserError(f"data: null, and {name} writes answers to its prompts; name some")
        length = objective.transform_spec(config.data.row_spec()).sizes["T"]
        return cls(program, config.optimizer, config.train.steps or 1, length=length)

    # -------------------------------------------------------------------------------------- state

    @property
    def keeps(self) -> bool:
        """Whether a rollout serves several steps."""
        return self.objective.steps_per_rollout > 1

    def _init(self, params: dict[str, Any]) -> State:
        state = super()._init(params)
        if self.keeps:
            state[KEPT] = {n: jnp.zeros(x.shape, x.dtype) for n, x in self.rollout_spec.items()}
        return state

    def _shardings(self, shapes: State) -> State:
        found = super()._shardings(shapes)
        if self.keeps:
            found[KEPT] = self._where
        return found

    # --------------------------------------------------------------------------------------- step

    def use_data(self, config: RunConfig, prepared: Prepared) -> None:
        self._completions = Completions(self.program, config, prepared)

    def batch(
        self,
        state: State,
        frozen: Frozen,
        batch: Mapping[str, Any],
        *,
        on_part: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> Mapping[str, Any]:
        found = self._batch(state, frozen, batch, on_part, compiling)
        if self._options is not None and len(found["tokens"]) not in self._steps:
            spec = jax.tree.map(_spec, dict(found))
            with compiling():
                self._steps[len(found["tokens"])] = super().compile(spec, self._options)
        return found

    def _batch(
        self,
        state: State,
        frozen: Frozen,
        batch: Mapping[str, Any],
        on_part: Callable[[], object],
        compiling: Compiling,
    ) -> Mapping[str, Any]:
        step = int(jax.device_get(state["step"]))
        if step % self.objective.steps_per_rollout:
            return self._kept(state[KEPT], compiling=compiling)
        if not self.objective.writes(step, self.program.seed):
            return self._of_records(batch, compiling=compiling)
        params = join(state["params"], frozen.get("base", {}))
        records = jax.device_get(self._gathered(batch[RECORD], compiling=compiling))
        assert self._completions is not None, "use_data"
        written = self._completions(
            params,
            records,
            record_rng(self.program.seed, step).randint(2**31 - 1),
            on_part=on_part,
            compiling=compiling,
        )
        rows = meshes.to_global(written, self.mesh)
        return self._rolled(params, rows, compiling=compiling)

    def _kept(self, rollout: Mapping[str, jax.Array], *, compiling: Compiling) -> Mapping[str, Any]:
        """The rollout of an earlier step, without the rows that were added to it; a copy, because
        the state is donated to the step.
        """
        rows = len(rollout["tokens"])
        if self.objective.packs:
            filled = self._filled(rollout["segment_ids"], compiling=compiling)
            rows = rows_for(int(jax.device_get(filled)), rows, self._multiple)
        if rows not in self._copied:
            copy = partial(_first_rows, rows=rows, names=self._of_rows)
            self._copied[rows] = Ahead(jax.jit(copy, out_shardings=self._where))
        found: Mapping[str, Any] = self._copied[rows](rollout, compiling=compiling)
        return found

    def compile(
        self,
        batch_spec: Mapping[str, jax.ShapeDtypeStruct],
        options: Mapping[str, str] | None = None,
    ) -> Step:
        if not self.objective.packs:
            return super().compile(batch_spec, options)
        self._options = options or {}  # `batch` compiles, for the rows that it has

        def by_rows(state: State, frozen: Frozen, batch: Mapping[str, jax.Array]) -> Any:
            return self._steps[len(batch["tokens"])](state, frozen, batch)

        return by_rows

    def step(
        self, state: State, frozen: Frozen, batch: Mapping[str, jax.Array]
    ) -> tuple[State, dict]:
        new, metrics = super().step(state, frozen, batch)
        if self.keeps:
            size = len(state[KEPT]["tokens"])
            new = {**new, KEPT: {name: _with_rows(x, size) for name, x in batch.items()}}
        return new, metrics

    def lower(self, batch_spec: Mapping[str, jax.ShapeDtypeStruct]) -> Any:
        return super().lower(self.rollout_spec if RECORD in batch_spec else batch_spec)

    # ------------------------------------------------------------------------ compiled once a run

    @cached_property
    def _gathered(self) -> Ahead:
        return Ahead(jax.jit(lambda x: x, out_shardings=meshes.replicated(self.mesh)))

    @cached_property
    def _filled(self) -> Ahead:
        """The number of rows that have tokens, which are the first ones."""
        count = lambda segments: (segments > 0).any(-1).sum()  # noqa: E731
        return Ahead(jax.jit(count, out_shardings=meshes.replicated(self.mesh)))

    @cached_property
    def _of_records(self) -> Ahead:
        return Ahead(jax.jit(self.objective.of_records, out_shardings=self._where))

    @property
    def _where(self) -> Mapping[str, Any]:
        return {name: x.sharding for name, x in self.rollout_spec.items()}

    @cached_property
    def _rolled(self) -> Ahead:
        program, objective = self.program, self.objective

        def rollout(params: Any, rows: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
            found = objective.rollout(rows)
            k = 1 if program.mesh.shape["stage"] > 1 else program.accumulation
            micro = {name: meshes.cut_rows(x, k) for name, x in found.items()}

            def read(part: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
                return objective.read_again(nnx.merge(program.graphdef, params), part)

            with pipelined(PipelineSchedule(program.accumulation, program.stage_repeats)):
                more = jax.lax.map(read, micro)
            return {**found, **{name: meshes.join_rows(x) for name, x in more.items()}}

        return Ahead(jax.jit(rollout, out_shardings=self._where))


def _first_rows(
    rollout: Mapping[str, jax.Array], rows: int, names: Collection[str]
) -> Mapping[str, jax.Array]:
    return {name: jnp.copy(x[:rows] if name in names else x) for name, x in rollout.items()}


def _with_rows(x: jax.Array, rows: int) -> jax.Array:
    """[R, ...] -> [rows, ...]: the others are 0."""
    return jnp.pad(x, [(0, rows - len(x)), *((0, 0),) * (x.ndim - 1)])


def _spec(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
