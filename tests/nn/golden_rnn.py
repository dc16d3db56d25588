"""Reads the fixtures of torch's recurrent layers in the layout of ours, and compares them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FIXTURES = Path(__file__).parents[1] / "fixtures"
FAMILY = "rnn"
CASES = ("lstm", "gru", "elman_tanh", "elman_relu")


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"rnn_{name}.npz") as data:
        return dict(data)


def params(golden: dict[str, np.ndarray], layer: int) -> dict:
    """Layer `layer` as parameters: torch's two biases are one, except the GRU's candidate."""
    b_x, b_h = golden[f"bias_ih_l{layer}"], golden[f"bias_hh_l{layer}"]
    recurrent = {"kernel": golden[f"weight_hh_l{layer}"].T}
    bias = b_x + b_h
    if is_gru(golden):
        hidden = golden["h_0"].shape[-1]
        bias = np.concatenate([bias[: 2 * hidden], b_x[2 * hidden :]])
        recurrent["bias"] = b_h[2 * hidden :]
    return {
        "input": {"kernel": golden[f"weight_ih_l{layer}"].T, "bias": bias},
        "recurrent": recurrent,
    }


def grads(golden: dict[str, np.ndarray], layer: int) -> dict:
    """The gradients of `params`: each of torch's summed biases has the gradient of the sum."""
    recurrent = {"kernel": golden[f"grad_weight_hh_l{layer}"].T}
    if is_gru(golden):
        recurrent["bias"] = golden[f"grad_bias_hh_l{layer}"][2 * golden["h_0"].shape[-1] :]
    return {
        "input": {
            "kernel": golden[f"grad_weight_ih_l{layer}"].T,
            "bias": golden[f"grad_bias_ih_l{layer}"],
        },
        "recurrent": recurrent,
    }


def state(golden: dict[str, np.ndarray], layer: int, which: str = "0") -> dict[str, np.ndarray]:
    """The state of layer `layer`: at the start ("0") or after the last step ("n")."""
    return {name: golden[f"{name}_{which}"][layer] for name in "hc" if f"{name}_0" in golden}


def is_gru(golden: dict[str, np.ndarray]) -> bool:
    return golden["weight_hh_l0"].shape[0] == 3 * golden["h_0"].shape[-1]


def largest(found: Any, want: Any, least: float = 1.0) -> float:
    """The largest difference of two trees' arrays, each relative to its largest value."""
    import jax

    def error(a: Any, b: Any) -> float:
        assert np.shape(a) == np.shape(b)
        return float(np.abs(np.asarray(a) - b).max() / max(least, np.abs(b).max()))

    return float(np.max(jax.tree.leaves(jax.tree.map(error, found, want))))


def errors(name: str) -> dict[str, float]:
    """How far two layers of ours are from torch's: outputs and last states; all gradients."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxlm.nn.recurrent import CELLS

    golden, layers = load(name), range(2)
    cell, _, activation = name.partition("_")
    hidden = golden["h_0"].shape[-1]
    widths = (golden["x"].shape[-1], hidden, hidden)

    def make(i: int) -> Any:
        return CELLS[cell](*widths[i:][:2], activation=activation or "tanh", rngs=nnx.Rngs(0))

    graphs = [nnx.split(nnx.eval_shape(partial(make, i)))[0] for i in layers]

    def loss(params: Any, x: Any, states: Any) -> Any:
        ends = []
        for graph, p, state in zip(graphs, params, states, strict=True):
            x, end = nnx.merge(graph, p)(x, jnp.zeros(x.shape[:2], bool), state)
            ends.append(end)
        total = (x * golden["d_outputs"]).sum()
        for i, end in enumerate(ends):
            total += sum((end[n] * golden[f"d_{n}_n"][i]).sum() for n in end)
        return total, (x, ends)

    given = [params(golden, i) for i in layers], golden["x"], [state(golden, i) for i in layers]
    gradients, found = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*given)
    d_states = [{n: golden[f"grad_{n}_0"][i] for n in given[2][i]} for i in layers]
    d_params = [grads(golden, i) for i in layers]
    want = golden["outputs"], [state(golden, i, "n") for i in layers]
    return {
        "hidden": largest(found, want),
        "gradients": largest(gradients, (d_params, golden["grad_x"], d_states), 1e-3),
    }
