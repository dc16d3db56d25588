"""Recurrences over time, given the projections of the inputs: LSTM, GRU and Elman RNN.

With x_t the input projections (biases in them), h the state, U the recurrent kernel, s the sigmoid:

    LSTM (Hochreiter & Schmidhuber 1997, forget gate of Gers et al. 2000; gates i, f, g, o)
        a = x_t + h U;  c' = s(a_f) c + s(a_i) tanh(a_g);  h' = s(a_o) tanh(c')
    GRU (Cho et al. 2014 in cuDNN's and PyTorch's form: the reset gate acts after the recurrent
    matmul, so its candidate has a bias of its own, b; gates r, z, n)
        r, z = s(x_t + h U);  n = tanh(x_n + r (h U_n + b));  h' = (1 - z) n + z h
    Elman (1990)
        h' = f(x_t + h U), f tanh or relu

Everything is time-major, [T, B, *]: a step then reads and writes contiguous memory, which is 10%
of the whole on a CPU. A state is set to zero before each step where `reset` is true, so documents
packed into one row do not see each other.

    outputs, state = lstm(gates_x, recurrent_kernel, reset, {"h": h, "c": c})

The backward pass keeps its time loop small: the loop returns the gradients of all pre-activations,
and the recurrent kernel's gradient is then one large matmul over T and B, where autodiff would add
a [H, G*H] product at every step. States, gates and their
gradients are float32 whatever the compute dtype; matmuls take their inputs in the dtype of the
kernel and accumulate in float32.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxlm.kernels.registry import Kernel

State = dict[str, jax.Array]  # {"h": [B, H]} and, for the LSTM, "c"; float32
Activation = Literal["tanh", "relu"]

recurrence_kernels = Kernel("recurrence")


class Result(NamedTuple):
    outputs: jax.Array  # [T, B, H] in the dtype of gates_x
    state: State  # after the last step


class Steps(NamedTuple):
    states: State  # [T, B, H] after every step: h in the dtype of gates_x; others if asked for
    state: State  # after the last step


@jax.named_scope("recurrence")
def lstm(
    gates_x: jax.Array,  # [T, B, 4*H], gates i, f, g, o
    recurrent_kernel: jax.Array,  # [H, 4*H]
    reset: jax.Array,  # [T, B] bool: the state is zero before this step
    state: State,  # {"h", "c"} of [B, H]
    *,
    unroll: int = 1,
    impl: str = "auto",
) -> Result:
    """Outputs and last state of an LSTM. `unroll`: time steps in one iteration of the loop."""
    given = (LSTM(), gates_x, recurrent_kernel, None, reset, state)
    return outputs_of(recur(*given, unroll=unroll, impl=impl))


@jax.named_scope("recurrence")
def gru(
    gates_x: jax.Array,  # [T, B, 3*H], gates r, z, n
    recurrent_kernel: jax.Array,  # [H, 3*H]
    recurrent_bias: jax.Array,  # [H], of the candidate n alone
    reset: jax.Array,  # [T, B] bool
    state: State,  # {"h"} of [B, H]
    *,
    unroll: int = 1,
    impl: str = "auto",
) -> Result:
    """Outputs and last state of a GRU; the biases of r and z belong to `gates_x`."""
    bias = jnp.pad(recurrent_bias, (2 * recurrent_bias.shape[0], 0))
    given = (GRU(), gates_x, recurrent_kernel, bias, reset, state)
    return outputs_of(recur(*given, unroll=unroll, impl=impl))


@jax.named_scope("recurrence")
def elman(
    gates_x: jax.Array,  # [T, B, H]
    recurrent_kernel: jax.Array,  # [H, H]
    reset: jax.Array,  # [T, B] bool
    state: State,  # {"h"} of [B, H]
    *,
    activation: Activation = "tanh",
    unroll: int = 1,
    impl: str = "auto",
) -> Result:
    """Outputs and last state of an Elman network."""
    given = (Elman(activation), gates_x, recurrent_kernel, None, reset, state)
    return outputs_of(recur(*given, unroll=unroll, impl=impl))


def recur(
    cell: Cell,
    gates_x: jax.Array,  # [T, B, G*H]
    kernel: jax.Array,  # [H, G*H]
    bias: jax.Array | None,  # [G*H], added to h U
    reset: jax.Array,  # [T, B] bool
    state: State,
    *,
    every_state: bool = False,
    unroll: int = 1,
    impl: str = "auto",
) -> Steps:
    """Any cell over time; `every_state` keeps the whole state of every step, not h alone."""
    run = recurrence_kernels.pick(impl)
    return run(cell, gates_x, kernel, bias, reset, state, unroll, every_state)


def outputs_of(steps: Steps) -> Result:
    return Result(steps.states["h"], steps.state)


@jax.named_scope("recurrence")
def step(
    cell: Cell,
    gates_x: jax.Array,  # [B, G*H]
    kernel: jax.Array,
    bias: jax.Array | None,
    state: State,
) -> State:
    """The state after one step, for a loop of the caller's own."""
    r = _matmul(state["h"], kernel, bias)
    return cell.forward(gates_x.astype(jnp.float32), r, state)[0]


# --------------------------------------------------------------------------------- one step of each


class Cell:
    """The elementwise part of a step, and its gradient. All arrays are float32.

    `forward(x, r, state)`: the state after a step with the projections x of the input and
    r = h U + bias of the state, and the residuals for `backward`. `backward(saved, grads)`: from
    the gradients of the new state, those of x, of r, and of the old state without its path through
    r. `additive`: the step depends only on x + r, so their gradients are one array.
    """

    gates: int
    additive: bool = True

    def forward(self, x: jax.Array, r: jax.Array, state: State) -> tuple[State, Any]:
        raise NotImplementedError

    def backward(self, saved: Any, grads: State) -> tuple[jax.Array, jax.Array, State]:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class LSTM(Cell):
    gates = 4

    def forward(self, x: jax.Array, r: jax.Array, state: State) -> tuple[State, Any]:
        i, f, g, o = jnp.split(x + r, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        c = f * state["c"] + i * g
        return {"h": o * jnp.tanh(c), "c": c}, (i, f, g, o, state["c"])

    def backward(self, saved: Any, grads: State) -> tuple[jax.Array, jax.Array, State]:
        i, f, g, o, old_c = saved
        tanh_c = jnp.tanh(f * old_c + i * g)
        dh = grads["h"]
        dc = grads["c"] + dh * o * (1 - tanh_c**2)
        da = jnp.concatenate(
            [
                dc * g * i * (1 - i),
                dc * old_c * f * (1 - f),
                dc * i * (1 - g**2),
                dh * tanh_c * o * (1 - o),
            ],
            axis=-1,
        )
        return da, da, {"h": jnp.zeros_like(dh), "c": dc * f}


@dataclasses.dataclass(frozen=True)
class GRU(Cell):
    gates = 3
    additive = False

    def forward(self, x: jax.Array, r: jax.Array, state: State) -> tuple[State, Any]:
        x_r, x_z, x_n = jnp.split(x, 3, axis=-1)
        r_r, r_z, r_n = jnp.split(r, 3, axis=-1)
        gate, z = jax.nn.sigmoid(x_r + r_r), jax.nn.sigmoid(x_z + r_z)
        n = jnp.tanh(x_n + gate * r_n)
        h = (1 - z) * n + z * state["h"]
        return {"h": h}, (gate, z, n, r_n, state["h"])

    def backward(self, saved: Any, grads: State) -> tuple[jax.Array, jax.Array, State]:
        gate, z, n, r_n, old_h = saved
        dh = grads["h"]
        dn = dh * (1 - z) * (1 - n**2)
        dz = dh * (old_h - n) * z * (1 - z)
        dgate = dn * r_n * gate * (1 - gate)
        dx = jnp.concatenate([dgate, dz, dn], axis=-1)
        dr = jnp.concatenate([dgate, dz, dn * gate], axis=-1)
        return dx, dr, {"h": dh * z}


@dataclasses.dataclass(frozen=True)
class Elman(Cell):
    activation: Activation = "tanh"
    gates = 1

    def forward(self, x: jax.Array, r: jax.Array, state: State) -> tuple[State, Any]:
        h = jnp.tanh(x + r) if self.activation == "tanh" else jax.nn.relu(x + r)
        return {"h": h}, h

    def backward(self, saved: Any, grads: State) -> tuple[jax.Array, jax.Array, State]:
        slope = 1 - saved**2 if self.activation == "tanh" else (saved > 0).astype(jnp.float32)
        da = grads["h"] * slope
        return da, da, {"h": jnp.zeros_like(da)}


# ---------------------------------------------------------------------------------- the loop over T


@recurrence_kernels.register("reference")
def _reference(
    cell: Cell,
    gates_x: jax.Array,  # [T, B, G*H]
    kernel: jax.Array,  # [H, G*H]
    bias: jax.Array | None,  # [G*H], added to h U
    reset: jax.Array,  # [T, B]
    state: State,
    unroll: int,
    every_state: bool,
) -> Steps:
    """The loop step by step, differentiated by autodiff."""

    def one(state: State, inputs: Any) -> tuple[State, Any]:
        x, reset = inputs
        state = step(cell, x, kernel, bias, _clear(state, reset))
        return state, _kept(state, every_state, gates_x.dtype)

    state, states = jax.lax.scan(one, _float32(state), (gates_x, reset), unroll=unroll)
    return Steps(states, state)


@recurrence_kernels.register("scan", auto_on=("cpu", "gpu", "tpu"))
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 6, 7))
def _scan(
    cell: Cell,
    gates_x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    reset: jax.Array,
    state: State,
    unroll: int,
    every_state: bool,
) -> Steps:
    """The same loop; in its backward pass the kernel's gradient is one matmul outside the loop."""
    return _reference(cell, gates_x, kernel, bias, reset, state, unroll, every_state)


def _scan_forward(  # type: ignore[no-untyped-def]
    cell, gates_x, kernel, bias, reset, state, unroll, every_state
):
    dtype = kernel.dtype

    def step(state: State, inputs: Any) -> tuple[State, Any]:
        x, reset = inputs
        state = _clear(state, reset)
        r = _matmul(state["h"], kernel, bias)
        state, saved = cell.forward(x.astype(jnp.float32), r, state)
        # Residuals are saved in the compute dtype: they are most of the memory.
        saved = jax.tree.map(lambda s: s.astype(dtype), saved)
        return state, (_kept(state, every_state, gates_x.dtype), saved)

    last, (states, saved) = jax.lax.scan(step, _float32(state), (gates_x, reset), unroll=unroll)
    return Steps(states, last), (kernel, bias, reset, state, states["h"], saved)


def _scan_backward(cell, unroll, every_state, residuals, grads):  # type: ignore[no-untyped-def]
    kernel, bias, reset, state, outputs, saved = residuals
    d_states, d_state = grads

    def step(d_state: State, inputs: Any) -> tuple[State, Any]:
        d_step, saved, reset = inputs
        saved = jax.tree.map(lambda s: s.astype(jnp.float32), saved)
        d_step = _float32(d_step)
        d_state = d_state | {name: d_state[name] + d for name, d in d_step.items()}
        dx, dr, d_state = cell.backward(saved, d_state)
        dr = dr.astype(kernel.dtype)
        through = jax.lax.dot_general(
            dr, kernel, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )
        d_state = _clear(d_state | {"h": d_state["h"] + through}, reset)
        return d_state, (dr if cell.additive else (dx.astype(outputs.dtype), dr))

    d_state, steps = jax.lax.scan(
        step, d_state, (d_states, saved, reset), reverse=True, unroll=unroll
    )
    dx, dr = (steps.astype(outputs.dtype), steps) if cell.additive else steps
    # The states that the steps began with: the outputs one step later, zero after a reset.
    before = jnp.concatenate(
        [state["h"].astype(kernel.dtype)[None], outputs[:-1].astype(kernel.dtype)]
    )
    before = _clear({"h": before}, reset)["h"]
    d_kernel = jnp.einsum("TBH,TBG->HG", before, dr, preferred_element_type=jnp.float32)
    d_bias = None if bias is None else dr.sum((0, 1), dtype=jnp.float32).astype(bias.dtype)
    d_state = {name: d_state[name].astype(value.dtype) for name, value in state.items()}
    return dx, d_kernel.astype(kernel.dtype), d_bias, None, d_state


_scan.defvjp(_scan_forward, _scan_backward)  # type: ignore[attr-defined]


def _matmul(h: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """h U + bias in float32, from inputs in the kernel's dtype."""
    r = jnp.matmul(h.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
    return r if bias is None else r + bias.astype(jnp.float32)


def _clear(state: State, reset: jax.Array) -> State:
    """`state` [..., H] with zeros where `reset` [...] is true: a selection, so no NaN passes."""
    return {name: jnp.where(reset[..., None], 0, value) for name, value in state.items()}


def _kept(state: State, every_state: bool, dtype: Any) -> State:
    """The part of a state that the caller gets: h in its dtype and, if asked for, the rest."""
    return (state if every_state else {}) | {"h": state["h"].astype(dtype)}


def _float32(state: State) -> State:
    return {name: value.astype(jnp.float32) for name, value in state.items()}
