"""Writes tests/fixtures/rnn_*.npz: what torch.nn.LSTM, GRU and RNN compute, and their gradients.

    python tools/make_golden_rnn.py        (needs torch)

Each file holds two stacked layers with random weights and biases, inputs [T, B, D], a random state
to start from, outputs and last states, and the gradients of sum(outputs * d_outputs) + sum(state *
d_state) with respect to inputs, states and parameters, under torch's own names. Then an embedding
and a head make it a language model, which continues each prompt greedily by itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
T, B, D, H, LAYERS = 180, 3, 5, 7, 2
V, PROMPTS, STEPS = 40, (5, 3, 1), 64


def main() -> None:
    torch.manual_seed(0)
    modules = {
        "lstm": torch.nn.LSTM(D, H, LAYERS),
        "gru": torch.nn.GRU(D, H, LAYERS),
        "elman_tanh": torch.nn.RNN(D, H, LAYERS, nonlinearity="tanh"),
        "elman_relu": torch.nn.RNN(D, H, LAYERS, nonlinearity="relu"),
    }
    for name, module in modules.items():
        arrays = golden(module, ("h", "c") if name == "lstm" else ("h",))
        texts = next(filter(None, (continued(module, seed) for seed in range(100))))
        np.savez_compressed(FIXTURES / f"rnn_{name}.npz", **arrays, **texts)


def golden(module: torch.nn.Module, state_names: tuple[str, ...]) -> dict[str, np.ndarray]:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x = torch.randn(T, B, D, requires_grad=True)
    state = {name: torch.randn(LAYERS, B, H, requires_grad=True) for name in state_names}
    outputs, last = module(x, tuple(state.values()) if len(state) > 1 else state["h"])
    last = last if len(state) > 1 else (last,)
    d_outputs = torch.randn_like(outputs) / T**0.5
    d_last = [torch.randn_like(s) for s in last]
    loss = (outputs * d_outputs).sum() + sum(
        (s * d).sum() for s, d in zip(last, d_last, strict=True)
    )
    loss.backward()
    tensors = {"x": x, "outputs": outputs, "d_outputs": d_outputs, "grad_x": x.grad}
    for name, end, d_end in zip(state_names, last, d_last, strict=True):
        tensors |= {f"{name}_0": state[name], f"{name}_n": end, f"d_{name}_n": d_end}
        tensors[f"grad_{name}_0"] = state[name].grad
    for name, parameter in module.named_parameters():
        tensors |= {name: parameter, f"grad_{name}": parameter.grad}
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


@torch.no_grad()
def continued(module: torch.nn.Module, seed: int) -> dict[str, np.ndarray] | None:
    """Greedy texts of a language model; None where one repeats itself, or a choice is close."""
    rng = torch.Generator().manual_seed(seed)
    table, head = (2 * torch.randn(V, size, generator=rng) for size in (D, H))
    bias = torch.randn(V, generator=rng)
    prompts = torch.zeros(len(PROMPTS), max(PROMPTS), dtype=torch.long)
    greedy = []
    for row, length in enumerate(PROMPTS):
        ids = torch.randint(V, (length,), generator=rng)
        prompts[row, :length] = ids
        text, state = [], None
        for _ in range(STEPS):
            outputs, state = module(table[ids][:, None], state)
            best = torch.topk(outputs[-1, 0] @ head.T + bias, 2)
            if best.values[0] - best.values[1] < 1e-3:
                return None
            ids = best.indices[:1]
            text.append(int(ids))
        if len(set(text[-20:])) < 4:
            return None
        greedy.append(text)
    found = {"embedding": table, "head_weight": head, "head_bias": bias, "prompts": prompts}
    return {
        **{name: tensor.numpy() for name, tensor in found.items()},
        "prompt_lengths": np.array(PROMPTS),
        "greedy": np.array(greedy),
    }


if __name__ == "__main__":
    main()
