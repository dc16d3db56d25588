"""The train step: gradients, the optimizer, and what is kept of both.

Gradients are of sums. With L_i and w_i the loss sum and the weight of micro-batch i,

    g = sum_i grad L_i / sum_i w_i

so k micro-batches give the gradient of the one k-fold batch, whatever the masks. The same holds for
the tokens that each expert received: a model that balances its experts by their load does so after
the optimizer, once a step (`adjust`).

The gradient is that of the trained parameters alone: the frozen ones are constants of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxlm import mesh as meshes
from jaxlm.core.tree import join
from jaxlm.kernels.registry import platform
from jaxlm.nn.adapter_key import adapter_key
from jaxlm.nn.embedding_noise import embedding_noise
from jaxlm.nn.pipeline import PipelineSchedule, pipelined
from jaxlm.optim.averaging import update_average
from jaxlm.optim.optimizer import Optimizer, update_ema
from jaxlm.training.program import DROPOUT_STREAM, Program, derive_key
from jaxlm.training.state import State, opt_state_shardings

Batch = Mapping[str, jax.Array]


def train_step(
    program: Program, optimizer: Optimizer, state: State, frozen: Mapping[str, Any], batch: Batch
) -> tuple[State, dict]:
    """(the state after the step, metrics). Metrics are (sum, weight) pairs.

    frozen: the parameters that are not trained ("base"), and those of the models beside the trained
    one. A step whose loss or gradient is not finite changes the counters alone.
    """
    params, carry, base = state["params"], state.get("carry"), frozen.get("base", {})
    key = derive_key(program.seed, DROPOUT_STREAM, state["step"])
    grads, weight, metrics, load, carry = gradients(program, params, frozen, batch, carry, key)
    grads, norm = _mean(grads, weight)
    good = jnp.isfinite(norm) & jnp.isfinite(metrics["objective"][0])

    # Each device updates the part whose moments it has. Parameters that are whole on every device
    # (ZeRO-1) are all-gathered at the end.
    shardings = program.trained(program.update_shardings)
    params = jax.tree.map(jax.lax.with_sharding_constraint, params, shardings)
    opt_state = state["opt_state"]
    if optimizer.config.offload:
        on_device = opt_state_shardings(program, opt_state, offload=False)
        opt_state = jax.tree.map(jax.device_put, opt_state, on_device)
    state = {**state, "params": params, "opt_state": opt_state}
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.tx.update(
            grads, opt_state, params, step=state["step"], norm=norm, good=good
        )
        params = optax.apply_updates(params, updates)
    adjusted = _adjusted(program, params, base, load)
    params = optimizer.held(adjusted, params, state["step"])
    new: State = {"params": params}
    if (decay := optimizer.config.ema_decay) is not None:
        new["ema"] = update_ema(state["ema"], new["params"], decay)
    if "num_averaged" in state:
        found = update_average(state["ema"], new["params"], state["num_averaged"])
        new["ema"], new["num_averaged"] = found
    if "carry" in state:
        new["carry"] = carry
    new = {k: jax.tree.map(lambda a, b: jnp.where(good, a, b), v, state[k]) for k, v in new.items()}
    new["opt_state"] = opt_state  # the optimizer keeps the old one where the step is bad
    new["step"] = state["step"] + 1
    new["bad_steps"] = jnp.where(good, 0, state["bad_steps"] + 1)
    metrics = {
        **metrics,
        "tokens": ((batch["segment_ids"] > 0).sum(), 1),
        "grad_norm": (norm, 1),
        "learning_rate": (optimizer.schedule(state["step"]), 1),
        "bad_steps": (new["bad_steps"], 1),
    }
    return new, metrics


def gradients(
    program: Program, params: Any, frozen: Any, batch: Batch, carry: Any, key: jax.Array
) -> tuple:
    """Sums over the micro-batches: (gradient, weight, metrics, load of experts, carry)."""
    k = program.accumulation
    batch = _over_batch(program, params, frozen, batch)
    if program.mesh.shape["stage"] > 1:  # the stages work on all micro-batches at a time
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(k))
        with pipelined(PipelineSchedule(k, program.stage_repeats)):
            return _micro_gradients(program, params, frozen, batch, carry, keys)
    if k == 1:
        one = jax.random.fold_in(key, 0)
        return _micro_gradients(program, params, frozen, batch, carry, one)

    # rows are the second dim of a carry
    cut = lambda x: jnp.moveaxis(meshes.cut_rows(x, k, dim=1), 1, 0)  # noqa: E731
    join_rows = lambda x: meshes.join_rows(jnp.moveaxis(x, 0, 1), dim=1)  # noqa: E731
    micro = {name: meshes.cut_rows(x, k) for name, x in batch.items()}
    carries = jax.tree.map(cut, carry)

    def add(total: Any, inputs: Any) -> tuple[Any, Any]:
        i, rows, carry = inputs
        one = jax.random.fold_in(key, i)
        *sums, carry = _micro_gradients(program, params, frozen, rows, carry, one)
        return jax.tree.map(jnp.add, total, tuple(sums)), carry

    first = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    inputs = (jnp.arange(k), micro, carries)
    shapes = jax.eval_shape(
        lambda p, args: _micro_gradients(program, p, frozen, args[1], args[2], key)[:4],
        params,
        first(inputs),
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    sums, carries = jax.lax.scan(add, zeros, inputs)
    return *sums, jax.tree.map(join_rows, carries)


def _mean(sums: Any, weight: jax.Array) -> tuple[Any, jax.Array]:
    """The mean gradients, and their norm."""
    scale = 1.0 / jnp.maximum(weight, 1.0)
    means = jax.tree.map(lambda g: g * scale, sums)
    # A norm of the products makes XLA for CPUs store them; on accelerators the sums would be kept.
    norm = scale * optax.tree.norm(sums) if platform() == "cpu" else optax.tree.norm(means)
    return means, norm


def _over_batch(program: Program, params: Any, frozen: Any, batch: Batch) -> Batch:
    """The batch with what its loss needs of all rows together."""
    whole = jax.lax.stop_gradient(join(params, frozen.get("base", {})))
    # the stages of a pipeline cut the rows themselves
    parts = 1 if program.mesh.shape["stage"] > 1 else program.accumulation
    with pipelined(PipelineSchedule(program.accumulation, program.stage_repeats)):
        model, beside = nnx.merge(program.graphdef, whole), program.beside(whole, frozen)
        return program.objective.over_batch(model, beside, batch, parts=parts)


def _micro_gradients(
    program: Program, params: Any, frozen: Any, batch: Batch, carry: Any, key: jax.Array
) -> tuple:
    base = frozen.get("base", {})

    def loss_sum(params: Any) -> tuple[jax.Array, Any]:
        whole = join(params, base)
        model, beside = nnx.merge(program.graphdef, whole), program.beside(whole, frozen)
        with adapter_key(key), embedding_noise(program.embedding_noise, key):
            out = program.objective.loss_beside(model, beside, batch, key=key, cache=carry)
        return out.loss_sum, out

    grads, out = jax.grad(loss_sum, has_aux=True)(params)
    # This makes the reduction a reduce-scatter under fsdp.
    shardings = program.trained(program.update_shardings)
    grads = jax.tree.map(jax.lax.with_sharding_constraint, grads, shardings)
    metrics = {**out.metrics, "objective": (out.loss_sum, out.weight)}
    return grads, out.weight, metrics, out.load, out.cache


def _adjusted(program: Program, params: Any, base: Any, load: Any) -> Any:
    """The parameters after the model has adjusted its own to the load of the step's experts."""
    if load is None:
        return params
    model = nnx.merge(program.graphdef, join(params, base))
    model.adjust(load)
    return program.trained(nnx.to_pure_dict(nnx.state(model)))
