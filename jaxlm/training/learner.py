"""The interface of a run's learner to the training loop, and the learner that descends a gradient.

    learner = learner_of(config, mesh)
    state = learner.create()                       # or a checkpoint's: reader.restore(...)
    step = learner.compile(batch_spec)
    state, metrics = step(state, learner.frozen, learner.batch(state, learner.frozen, batch))
    params = learner.weights(state, learner.frozen)

A state is what training changes: it is donated to the step and saved in checkpoints. Frozen trees
are what a step reads and does not change (the base of an adapter, a reference model, a teacher):
they are never donated and never saved; a checkpoint names them. An objective names its learner
(`Objective.learner`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import jax
from jax.sharding import Mesh

from jaxlm import mesh as meshes
from jaxlm.checkpoint.state_io import ArrayInfo
from jaxlm.core.config import UserError
from jaxlm.core.tree import join
from jaxlm.data.store.prepared import Prepared
from jaxlm.optim.base import OptimizerConfig
from jaxlm.optim.optimizer import build
from jaxlm.run import RunConfig
from jaxlm.training.ahead import Compiling
from jaxlm.training.compiler import compile_with
from jaxlm.training.program import Program
from jaxlm.training.state import State, init_state, shardings_of, with_shardings
from jaxlm.training.step import train_step

Frozen = dict[str, Any]  # {name: a tree of arrays}
Step = Callable[[State, Frozen, Mapping[str, jax.Array]], tuple[State, dict]]


class Learner:
    """A learner, by which a run learns. It has no state; `frozen` are the trees its steps read."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.frozen: Frozen = {}
        self.origins: dict[str, dict[str, Any]] = {}  # of each frozen tree, for checkpoints

    @classmethod
    def of(cls, config: RunConfig, program: Program) -> Learner:
        """The learner of a resolved config. Raises `UserError` where the config lacks a part."""
        raise NotImplementedError

    @property
    def mesh(self) -> Mesh:
        return self.program.mesh

    # -------------------------------------------------------------------------------------- state

    def create(self, params: dict[str, Any] | None = None) -> State:
        """A fresh state on the mesh, at step 0. Sets `frozen` to the parameters that are not
        trained.

        params: all parameters of the model, sharded; None: drawn from the seed.
        """
        raise NotImplementedError

    def abstract_state(self, stored: Mapping[str, ArrayInfo] | None = None) -> State:
        """Shapes, dtypes and shardings of the state; nothing is allocated.

        stored: the arrays of the checkpoint that is to be restored, by path.
        """
        raise NotImplementedError

    @staticmethod
    def as_stored(
        params: dict[str, Any], stored: Mapping[str, ArrayInfo], part: str
    ) -> dict[str, Any]:
        """Abstract parameters in the shapes of a checkpoint's arrays below `part`, for a learner
        whose arrays grow.
        """
        return params

    def abstract_frozen(self) -> Frozen:
        """Shapes, dtypes and shardings of the frozen trees; nothing is allocated."""
        return {}

    def weights(self, state: State, frozen: Frozen) -> dict[str, Any]:
        """All parameters of the model, for evaluation, samples and export: the moving average
        where one is kept, joined with the frozen ones.
        """
        raise NotImplementedError

    # --------------------------------------------------------------------------------------- step

    def use_data(self, config: RunConfig, prepared: Prepared) -> None:
        """Takes from the data what `batch` needs of it, before training. Raises `UserError` where
        there is no such thing.

        config: the resolved one.
        """

    def batch(
        self,
        state: State,
        frozen: Frozen,
        batch: Mapping[str, Any],
        *,
        on_part: Callable[[], object] = lambda: None,
        compiling: Compiling = nullcontext,
    ) -> Mapping[str, Any]:
        """The step's input for a batch of the loader, already on the mesh.

        on_part: called from time to time while a batch takes long; the watchdog needs it.
        compiling: makes the block of each compilation.
        """
        return batch

    def step(
        self, state: State, frozen: Frozen, batch: Mapping[str, jax.Array]
    ) -> tuple[State, dict]:
        """(state, frozen, batch) -> (state, metrics), traceable. Metrics are (sum, weight) pairs;
        "tokens" and "bad_steps" are among them.
        """
        raise NotImplementedError

    def compile(
        self,
        batch_spec: Mapping[str, jax.ShapeDtypeStruct],
        options: Mapping[str, str] | None = None,
    ) -> Step:
        """The executable of `step`, from abstract shapes; the state alone is donated.

        batch_spec: the loader's batch. options: the XLA compiler's. Raises `UserError` for an
        option that the compiler does not know.
        """
        with jax.set_mesh(self.mesh):
            return compile_with(self.lower(batch_spec), options or {})

    def lower(self, batch_spec: Mapping[str, jax.ShapeDtypeStruct]) -> Any:
        """`step` for a batch of these shapes, before it is compiled. Call it within the mesh."""
        return self.jitted().lower(self.abstract_state(), self.abstract_frozen(), dict(batch_spec))

    def jitted(self) -> Any:
        """`step` under jax.jit, by the name that profiles and compiled programs show."""

        def train_step(state: State, frozen: Frozen, batch: Any) -> tuple[State, dict]:
            return self.step(state, frozen, batch)

        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state())
        whole = meshes.replicated(self.mesh)
        return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, whole))

    def finish(self, state: State, *, on_part: Callable[[], object] = lambda: None) -> State:
        """The state after the last step, before it is saved. on_part: as that of `batch`."""
        return state


class GradientLearner(Learner):
    """Descends the gradient of the objective's loss, by an optimizer."""

    def __init__(self, program: Program, optimizer: OptimizerConfig, total_steps: int = 1) -> None:
        """total_steps: the schedule's."""
        super().__init__(program)
        self.total_steps = total_steps
        shapes, axes = program.abstract_params, program.param_axes
        if not program.trained(shapes):
            raise UserError(
                "adapter: trains no parameter; name some by adapter.train, or use a lora of rank 1 "
                "or more"
            )
        trained = program.trained(shapes), program.trained(axes)
        self.optimizer = build(optimizer, *trained, total_steps, model=(shapes, axes))

    @classmethod
    def of(cls, config: RunConfig, program: Program) -> Learner:
        assert config.optimizer is not None, "RunConfig.validate"
        return cls(program, config.optimizer, config.train.steps or 1)

    def create(self, params: dict[str, Any] | None = None) -> State:
        program = self.program
        if params is None:
            params = program.draw()
        base = program.base(params)
        self.frozen = {"base": base} if base else {}
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state())
        return jax.jit(self._init, out_shardings=shardings)(program.trained(params))

    def abstract_state(self, stored: Mapping[str, ArrayInfo] | None = None) -> State:
        shapes = jax.eval_shape(self._init, self.program.trained(self.program.abstract_params))
        return with_shardings(shapes, self._shardings(shapes))

    def abstract_frozen(self) -> Frozen:
        base = self.program.base(self.program.abstract_params)
        trees = {"base": base, **self.program.abstract_references}
        return {name: tree for name, tree in trees.items() if tree}

    def weights(self, state: State, frozen: Frozen) -> dict[str, Any]:
        params = state["ema"] if "ema" in state else state["params"]
        return join(params, frozen.get("base", {}))

    def step(
        self, state: State, frozen: Frozen, batch: Mapping[str, jax.Array]
    ) -> tuple[State, dict]:
        return train_step(self.program, self.optimizer, state, frozen, batch)

    def _init(self, params: dict[str, Any]) -> State:
        return init_state(self.program, self.optimizer, params)

    def _shardings(self, shapes: State) -> State:
        """The sharding of every array of a state of these shapes."""
        return shardings_of(self.program, self.optimizer, shapes)
