"""Reads the fixtures of torch's recurrent layers in the layout of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ("lstm", "gru", "elman_tanh", "elman_relu")


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"rnn_{name}.npz") as data:
        return dict(data)


def params(golden: dict[str, np.ndarray], layer: int) -> dict:
    """Layer `layer` as parameters: torch's two biases are one, but for the GRU's candidate."""
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
