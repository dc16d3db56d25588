"""The train state of a run that descends a gradient.

The state is a plain dict of arrays, so that it can be donated, sharded, saved and hashed:

    step       int32              steps taken
    params     {...} float32      the parameters that are trained
    opt_state  optax's state
    ema        {...}              their average, where one is kept
    num_averaged  int32           weights in it, where `optimizer.averaging` is set; 0: not begun
    carry      {...}              the recurrent state of each row of the batch, where it is carried
    bad_steps  int32              steps in a row that were skipped for a loss that is not finite
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jaxlm import mesh as meshes
from jaxlm.optim.optimizer import Optimizer
from jaxlm.optim.optimizer import state_shardings as moment_shardings
from jaxlm.training.program import Program

State = dict[str, Any]


def init_state(program: Program, optimizer: Optimizer, params: dict[str, Any]) -> State:
    """The state at step 0 around the trained parameters (traceable)."""
    state: State = {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        "opt_state": optimizer.tx.init(params),
        "bad_steps": jnp.zeros((), jnp.int32),
    }
    if optimizer.config.ema_decay is not None:
        state["ema"] = params
    if optimizer.config.averaging is not None:
        state["ema"], state["num_averaged"] = params, jnp.zeros((), jnp.int32)
    if program.model.carries_state:
        state["carry"] = program.init_carry()
    return state


def shardings_of(program: Program, optimizer: Optimizer, abstract: State) -> State:
    """The sharding of every array of a state of these shapes."""
    mesh = program.mesh
    out: State = {name: meshes.replicated(mesh) for name in ("step", "bad_steps")}
    if "num_averaged" in abstract:
        out["num_averaged"] = meshes.replicated(mesh)
    out["params"] = program.trained(program.param_shardings)
    offload = optimizer.config.offload
    out["opt_state"] = opt_state_shardings(program, abstract["opt_state"], offload=offload)
    if "ema" in abstract:
        out["ema"] = program.trained(program.update_shardings)
    if "carry" in abstract:
        # [L, B, H]: each row's state is where the row of the batch is
        rows = NamedSharding(mesh, meshes.spec_of((None, "batch", None)))
        out["carry"] = jax.tree.map(lambda _: rows, abstract["carry"])
    return out


def opt_state_shardings(program: Program, opt_state: Any, *, offload: bool) -> Any:
    """The shardings of an optimizer's state, in host memory (`offload`) or on the devices."""
    params, axes = program.trained(program.abstract_params), program.trained(program.param_axes)
    return moment_shardings(opt_state, params, axes, program.mesh, offload=offload)


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Shapes, dtypes and shardings in one tree of `jax.ShapeDtypeStruct`."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
