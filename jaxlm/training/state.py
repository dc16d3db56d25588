"""The train state and the one train step.

The state is a plain dict of arrays, so that it can be donated, sharded, saved and hashed:

    step       int32              steps taken
    params     {...} float32      the model
    opt_state  optax's state
    ema        {...}              the average of the parameters, where it is kept
    carry      {...}              the recurrent state of each row of the batch, where it is carried
    bad_steps  int32              steps in a row that were not applied, their loss not being finite

`Program` holds what does not change in a run: the module's structure, the objective, the optimizer,
and the sharding of everything. Its `train_step` is a pure function; the loop compiles it once,
ahead of time.

Gradients are of sums. With L_i and w_i the loss sum and the weight of micro-batch i,

    g = sum_i grad L_i / sum_i w_i

so k micro-batches give the gradient of the one k-fold batch, whatever the masks. The same holds of
the tokens that each expert had: a model that balances its experts by their load does so after the
optimizer, once a step (`adjust`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from jaxlm import mesh as meshes
from jaxlm.core.config import UserError, type_name
from jaxlm.core.tree import map_with_path
from jaxlm.core.types import ModelConfig
from jaxlm.nn.params import split
from jaxlm.nn.pipeline import Schedule, pipelined
from jaxlm.objectives.base import Objective
from jaxlm.optim.optimizer import Optimizer, state_shardings, update_ema
from jaxlm.training.compiler import compile_with

State = dict[str, Any]

INIT_STREAM, DROPOUT_STREAM, SAMPLE_STREAM = range(3)


def derive_key(seed: int, stream: int, step: Any = 0) -> jax.Array:
    """The key of one use of randomness at one step: derived from the seed, never carried."""
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stream), step
    )


@dataclass(frozen=True, kw_only=True)
class Program:
    """Everything of a training run that is not state."""

    mesh: Mesh
    graphdef: Any  # the NNX structure that `nnx.merge` puts parameters into
    abstract_params: dict[str, Any]
    param_axes: dict[str, Any]
    param_shardings: dict[str, Any]
    update_shardings: dict[str, Any]  # where each parameter's gradient, moments and average live
    objective: Objective
    model: ModelConfig
    optimizer: Optimizer | None
    seed: int
    batch_size: int
    accumulation: int
    stage_repeats: int

    # -------------------------------------------------------------------------------------- state

    def init_params(self) -> dict[str, Any]:
        """Fresh parameters (traceable): a function of the seed alone."""
        rngs = nnx.Rngs(derive_key(self.seed, INIT_STREAM))
        return nnx.to_pure_dict(nnx.split(self.objective.build_model(self.model, rngs=rngs))[1])

    def init_state(self, params: dict[str, Any]) -> State:
        """The state at step 0 around `params` (traceable)."""
        assert self.optimizer is not None
        state: State = {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "opt_state": self.optimizer.tx.init(params),
            "bad_steps": jnp.zeros((), jnp.int32),
        }
        if self.optimizer.config.ema_decay is not None:
            state["ema"] = params
        if self.model.carries_state:
            state["carry"] = self.init_carry()
        return state

    def init_carry(self, batch_size: int | None = None) -> Any:
        """The recurrent state before the first batch, one for each row of the global batch."""
        model = nnx.merge(self.graphdef, self.abstract_params)
        return model.init_cache(batch_size or self.batch_size, 0)

    def shardings(self, abstract_state: State) -> State:
        """The sharding of every array of the state."""
        out: State = {name: meshes.replicated(self.mesh) for name in ("step", "bad_steps")}
        out["params"] = self.param_shardings
        out["opt_state"] = self._moments(abstract_state["opt_state"], self._offloads)
        if "ema" in abstract_state:
            out["ema"] = self.update_shardings
        if "carry" in abstract_state:
            # [L, B, H]: each row's state lives where the row of the batch does
            rows = NamedSharding(self.mesh, meshes.spec_of((None, "batch", None)))
            out["carry"] = jax.tree.map(lambda _: rows, abstract_state["carry"])
        return out

    @property
    def _offloads(self) -> bool:
        return self.optimizer is not None and self.optimizer.config.offload

    def _moments(self, opt_state: Any, offload: bool) -> Any:
        """The shardings of an optimizer's state, in the hosts' or the devices' memory."""
        how = (opt_state, self.abstract_params, self.param_axes, self.mesh)
        return state_shardings(*how, offload=offload)

    def abstract_state(self) -> State:
        """Shapes, dtypes and shardings of the state; nothing is allocated."""
        shapes = jax.eval_shape(self.init_state, self.abstract_params)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            self.shardings(shapes),
        )

    def create_state(self, params: dict[str, Any] | None = None) -> State:
        """A fresh state on the mesh; `params` are given, already sharded, or drawn by the seed."""
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract_state())
        if params is None:
            params = jax.jit(self.init_params, out_shardings=self.param_shardings)()
        return jax.jit(self.init_state, out_shardings=shardings)(params)

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs of a token for the data's rows of `seq_len`, as the objective has them."""
        module = nnx.merge(self.graphdef, self.abstract_params)
        return self.objective.flops_per_token(module, seq_len)

    # --------------------------------------------------------------------------------------- step

    def train_step(self, state: State, batch: Mapping[str, jax.Array]) -> tuple[State, dict]:
        """(state, batch) -> (state, metrics). Metrics are (sum, weight) pairs and scalars.

        A step whose loss or gradient is not finite leaves everything but the counters as it was.
        """
        assert self.optimizer is not None
        params, carry = state["params"], state.get("carry")
        batch = dict(batch)
        signal = batch.pop("signal", None)
        key = derive_key(self.seed, DROPOUT_STREAM, state["step"])
        grads, weight, metrics, load, carry = self._gradients(params, batch, carry, key)
        scale = 1.0 / jnp.maximum(weight, 1.0)
        grads = jax.tree.map(lambda g: g * scale, grads)
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(norm) & jnp.isfinite(metrics["objective"][0])

        # Each device updates the part whose moments it has; where parameters live whole (ZeRO-1),
        # they are gathered once more at the end.
        params = jax.tree.map(jax.lax.with_sharding_constraint, params, self.update_shardings)
        opt_state = state["opt_state"]
        if self._offloads:
            opt_state = jax.tree.map(jax.device_put, opt_state, self._moments(opt_state, False))
        state = {**state, "params": params, "opt_state": opt_state}
        with jax.named_scope("optimizer"):
            updates, opt_state = self.optimizer.tx.update(
                grads, opt_state, params, step=state["step"]
            )
            params = optax.apply_updates(params, updates)
        params = self._adjusted(params, load)
        new: State = {"params": params, "opt_state": opt_state}
        if "ema" in state:
            decay = self.optimizer.config.ema_decay
            assert decay is not None
            new["ema"] = update_ema(state["ema"], new["params"], decay)
        if "carry" in state:
            new["carry"] = carry
        new = {
            k: jax.tree.map(lambda a, b: jnp.where(good, a, b), v, state[k]) for k, v in new.items()
        }
        new["step"] = state["step"] + 1
        new["bad_steps"] = jnp.where(good, 0, state["bad_steps"] + 1)
        metrics = {
            **metrics,
            "tokens": ((batch["segment_ids"] > 0).sum(), 1),
            "grad_norm": (norm, 1),
            "learning_rate": (self.optimizer.schedule(state["step"]), 1),
            "bad_steps": (new["bad_steps"], 1),
        }
        if signal is not None:
            metrics["signal"] = (signal.max(), 1)  # what any process asks of all
        return new, metrics

    def _gradients(
        self, params: Any, batch: Mapping[str, jax.Array], carry: Any, key: Any
    ) -> tuple:
        """Sums over the micro-batches: (gradient, weight, metrics, load of experts, carry)."""
        k = self.accumulation
        if self.mesh.shape["stage"] > 1:  # the stages work on all micro-batches at a time
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(k))
            with pipelined(Schedule(k, self.stage_repeats)):
                return self._micro_gradients(params, batch, carry, keys)
        if k == 1:
            return self._micro_gradients(params, batch, carry, jax.random.fold_in(key, 0))

        # rows are the second dim of a carry
        cut = lambda x: jnp.moveaxis(meshes.cut_rows(x, k, dim=1), 1, 0)  # noqa: E731
        join = lambda x: meshes.join_rows(jnp.moveaxis(x, 0, 1), dim=1)  # noqa: E731
        micro = {name: meshes.cut_rows(x, k) for name, x in batch.items()}
        carries = jax.tree.map(cut, carry)

        def add(total: Any, inputs: Any) -> tuple[Any, Any]:
            i, rows, carry = inputs
            *sums, carry = self._micro_gradients(params, rows, carry, jax.random.fold_in(key, i))
            return jax.tree.map(jnp.add, total, tuple(sums)), carry

        first = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
        inputs = (jnp.arange(k), micro, carries)
        shapes = jax.eval_shape(
            lambda p, args: self._micro_gradients(p, args[1], args[2], key)[:4],
            params,
            first(inputs),
        )
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        sums, carries = jax.lax.scan(add, zeros, inputs)
        return *sums, jax.tree.map(join, carries)

    def _micro_gradients(
        self, params: Any, batch: Mapping[str, jax.Array], carry: Any, key: Any
    ) -> tuple:
        def loss_sum(params: Any) -> tuple[jax.Array, Any]:
            out = self.objective.loss(nnx.merge(self.graphdef, params), batch, key=key, cache=carry)
            return out.loss_sum, out

        grads, out = jax.grad(loss_sum, has_aux=True)(params)
        # This makes the reduction a reduce-scatter under fsdp.
        grads = jax.tree.map(jax.lax.with_sharding_constraint, grads, self.update_shardings)
        metrics = {**out.metrics, "objective": (out.loss_sum, out.weight)}
        return grads, out.weight, metrics, out.load, out.cache

    def _adjusted(self, params: Any, load: Any) -> Any:
        """The parameters after what the model itself moves, by the load that the step found."""
        if load is None:
            return params
        model = nnx.merge(self.graphdef, params)
        model.adjust(load)
        return nnx.to_pure_dict(nnx.state(model))

    def eval_step(
        self, params: Any, batch: Mapping[str, jax.Array], carry: Any
    ) -> tuple[dict, Any]:
        """Metric sums of one batch, no dropout; and the carry after it."""
        rows = len(batch["segment_ids"]) // meshes.batch_parts(self.mesh)
        with pipelined(Schedule(math.gcd(rows, self.accumulation), self.stage_repeats)):
            model = nnx.merge(self.graphdef, params)
            out = self.objective.loss(model, batch, key=None, cache=carry)
        return dict(out.metrics), out.cache


def make_program(
    *,
    mesh: Mesh,
    zero: int = 3,
    stage_repeats: int = 1,
    model: ModelConfig,
    objective: Objective,
    optimizer: Any = None,
    total_steps: int = 1,
    seed: int = 0,
    batch_size: int = 1,
    accumulation: int = 1,
) -> Program:
    """A Program from configs; shapes only, nothing is allocated.

    With `zero` 1, fsdp splits the optimizer state but not the parameters (arXiv:1910.02054). Where
    the mesh has stages, the micro-batches pass them `stage_repeats` times (`jaxlm.nn.pipeline`).
    Raises `UserError` where the mesh does not divide a parameter or the micro-batch.
    """
    from jaxlm.optim.optimizer import build

    meshes.check_accumulation(batch_size, accumulation, mesh)
    if mesh.shape["stage"] > 1 and not model.pipelines:
        raise UserError(
            f"mesh.stage: the layers of a {type_name(type(model))} are no pipeline; set it to 1, "
            "and split data or fsdp"
        )
    model.check_stages(mesh.shape["stage"], stage_repeats)
    if isinstance(mesh, Mesh):  # an abstract one has no devices: what kernels are picked for
        model = model.computing_on(mesh.devices.flat[0].platform)
    module = nnx.eval_shape(
        lambda: objective.build_model(model, rngs=nnx.Rngs(derive_key(seed, INIT_STREAM)))
    )
    graphdef, abstract, axes = split(module)
    update_shardings = meshes.param_shardings(abstract, axes, mesh)
    whole = ("fsdp",) if zero == 1 else ()
    shardings = meshes.param_shardings(abstract, axes, mesh, without=whole)
    abstract = map_with_path(
        lambda _, x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )
    return Program(
        mesh=mesh,
        graphdef=graphdef,
        abstract_params=abstract,
        param_axes=axes,
        param_shardings=shardings,
        update_shardings=update_shardings,
        objective=objective,
        model=model,
        optimizer=build(optimizer, abstract, axes, total_steps) if optimizer is not None else None,
        seed=seed,
        batch_size=batch_size,
        accumulation=accumulation,
        stage_repeats=stage_repeats,
    )


def compile_train_step(
    program: Program,
    batch_spec: Mapping[str, jax.ShapeDtypeStruct],
    options: Mapping[str, str] | None = None,
) -> Any:
    """The executable of the train step, from abstract shapes; the state is donated.

    `options` are the compiler's. Raises `UserError` for one that it does not know.
    """
    abstract = program.abstract_state()
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    step = jax.jit(
        program.train_step,
        donate_argnums=0,
        out_shardings=(shardings, meshes.replicated(program.mesh)),
    )
    with jax.set_mesh(program.mesh):
        return compile_with(step.lower(abstract, dict(batch_spec)), options or {})
