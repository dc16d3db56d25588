"""Writes tests/fixtures/optim_*.npz: the path of two parameters under torch's optimizers.

Needs torch; the tests read the files and do not. Run from the project's root:

    python tools/make_golden_optimizers.py

Each file holds the initial `kernel` [I, O] and `bias` [O], the gradients of every step
(`kernel_grads` [S, I, O], `bias_grads` [S, O]) and what the parameters became (`kernel_path`,
`bias_path`), all float32. The learning rate of each step is `rates` [S]. The gradients vary in size
over four orders of magnitude, so that epsilons and clipping matter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

STEPS, INPUTS, OUTPUTS = 15, 12, 20
FOLDER = Path(__file__).parent.parent / "tests" / "fixtures"

OPTIMIZERS: dict[str, Callable] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0),
    "momentum": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.8),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.8, nesterov=True),
    "sgd_l2": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.8, weight_decay=0.3),
    "adam": lambda p: torch.optim.Adam(p, lr=1.0, betas=(0.8, 0.95), eps=1e-4),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1.0, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3),
    "adafactor": lambda p: torch.optim.Adafactor(
        p, lr=1.0, beta2_decay=-0.7, eps=(1e-30, 1e-2), d=1.1, weight_decay=0.3
    ),
    "muon_rms": lambda p: torch.optim.Muon(
        p, lr=1.0, momentum=0.9, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"
    ),
    "muon_width": lambda p: torch.optim.Muon(
        p, lr=1.0, momentum=0.9, weight_decay=0.3, nesterov=False, adjust_lr_fn="original"
    ),
}


def main() -> None:
    # Torch's Muon iterates in bfloat16; the comparison is of the algorithm, in float32.
    torch.Tensor.bfloat16 = lambda self: self.clone()  # type: ignore[method-assign]
    for seed, (name, make) in enumerate(OPTIMIZERS.items()):
        arrays = run(make, name.startswith("muon"), np.random.default_rng(seed))
        np.savez_compressed(FOLDER / f"optim_{name}.npz", **arrays)


def run(make: Callable, matrices_only: bool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    shapes = {"kernel": (INPUTS, OUTPUTS), "bias": (OUTPUTS,)}
    if matrices_only:
        del shapes["bias"]
    start = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    sizes = 10.0 ** rng.uniform(-3, 1, size=STEPS)
    grads = {
        k: np.stack([rng.normal(size=s) * size for size in sizes]).astype(np.float32)
        for k, s in shapes.items()
    }
    rates = rng.uniform(0.01, 0.1, size=STEPS).astype(np.float32)
    # Torch keeps a kernel as [O, I].
    params = {k: torch.nn.Parameter(torch.tensor(v.T.copy())) for k, v in start.items()}
    optimizer = make(list(params.values()))
    path: dict[str, list] = {k: [] for k in shapes}
    for step in range(STEPS):
        for k, p in params.items():
            p.grad = torch.tensor(grads[k][step].T.copy())
        optimizer.param_groups[0]["lr"] = float(rates[step])
        optimizer.step()
        for k, p in params.items():
            path[k].append(p.detach().numpy().T.copy())
    out = {"rates": rates}
    for k in shapes:
        out |= {k: start[k], f"{k}_grads": grads[k], f"{k}_path": np.stack(path[k])}
    return out


if __name__ == "__main__":
    main()
