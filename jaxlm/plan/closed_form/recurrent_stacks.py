"""The stack of a recurrent language model, as the analytic model sees it.

The projections of the inputs are matmuls over all time steps, as in any layer. The recurrent
kernels are all-gathered before the loop over time, whole on every device, and read at each step;
their gradient is one matmul over all steps. Cells without a loop stay split over their width, which
is all-gathered where a layer reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxlm.models.rnn import RNNConfig
from jaxlm.nn.recurrent import CELLS
from jaxlm.nn.stack import Remat
from jaxlm.plan.closed_form.stacks import Array, Layers, LinearMap, Rows, Sizes, Stack, describes

LINEAR_STATES = 3  # float32 decays, inputs and states: what a cell without a loop keeps of a step


@describes(RNNConfig)
def recurrent(model: RNNConfig, params: Sequence[Array], rows: Rows) -> tuple[Stack, ...]:
    names = sorted({p.path.split("/")[0] for p in params if p.path.startswith("layers")})
    runs = [[p for p in params if p.path.split("/")[0] == name] for name in names]
    stack = Stack(
        path="model",
        remat=Remat(model.remat),
        length=rows.length,
        hidden=model.hidden_size,
        layers=tuple(_layers(run, model, rows) for run in runs),
        splits_stream=False,
        splits_length=False,
        policies=("none", "full"),
    )
    return (stack,)


def _layers(params: Sequence[Array], model: RNNConfig, rows: Rows) -> Layers:
    kernels = [p for p in params if p.path.endswith("/kernel")]
    count, width = kernels[0].shape[0], kernels[0].shape[-1]
    loops = [p for p in kernels if p.path.endswith("/recurrent/kernel")]
    hidden = loops[0].shape[1] if loops else width
    maps = [_map(p, count, rows, loop=p in loops, gathered=bool(loops)) for p in kernels]
    inner = any(p.axes[1] == "hidden" for p in kernels if p not in loops)
    gathered = 0.0 if loops else hidden * (3.0 if inner else 1.0)  # outputs; inputs of gates, twice
    tensors: dict[str, Sizes] = {"states": ((None, _states(model) * hidden),)}
    if loops:
        tensors["gates"] = ((None, width),)
    return Layers(count, tuple(maps), tensors, None, gathered=gathered)


def _map(array: Array, layers: int, rows: Rows, *, loop: bool, gathered: bool) -> LinearMap:
    inputs, outputs = array.shape[1:]
    return LinearMap(
        array,
        makes=array.path.split("/")[-2],
        layers=layers,
        share=1.0,
        outputs=((None if loop else "gates", outputs),),
        inputs=((None, inputs),),
        length=rows.length,
        steps=rows.length if loop else 1,
        gathered=gathered and not loop,
    )


def _states(model: RNNConfig) -> float:
    """Elements per unit of width, in the compute dtype, that a step saves for the backward pass."""
    kind = CELLS[model.cell]
    if not kind.recurrent_kernel:
        return LINEAR_STATES * (2.0 if model.dtype == "bfloat16" else 1.0)
    layer: Any = nnx.eval_shape(lambda: kind(1, 1, rngs=nnx.Rngs(0)))
    gates = jnp.zeros((1, layer.num_gates))
    state = {name: jnp.zeros((1, 1)) for name in kind.state_names}
    _, saved = jax.eval_shape(layer.cell.forward, gates, gates, state)
    return 1.0 + sum(x.size for x in jax.tree.leaves(saved))  # and its output
