"""The side "flax" of `against_torch.py`: a GPT as the examples of Flax NNX write one.

Modules of `flax.nnx`, `nnx.Optimizer` with optax's clip and AdamW, one `nnx.jit` around the step,
to which model and optimizer are donated. It reads the weights that jaxlm drew.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx


class Block(nnx.Module):
    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.ln_1, self.ln_2 = (nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs) for _ in range(2))
        self.attn = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.fc = nnx.Linear(width, 4 * width, rngs=rngs)
        self.proj = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attn(self.ln_1(x), mask=mask)
        return x + self.proj(nnx.gelu(self.fc(self.ln_2(x))))


class GPT(nnx.Module):
    def __init__(self, row: Mapping[str, Any], rngs: nnx.Rngs) -> None:
        width = row["width"]
        self.wte = nnx.Embed(row["vocab"], width, rngs=rngs)
        self.wpe = nnx.Embed(row["length"], width, rngs=rngs)
        self.h = nnx.List(Block(width, row["heads"], rngs) for _ in range(row["layers"]))
        self.ln_f = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.wte(tokens) + self.wpe(jnp.arange(tokens.shape[1]))
        mask = nnx.make_causal_mask(tokens)
        for block in self.h:
            x = block(x, mask)
        return self.wte.attend(self.ln_f(x))


def load(model: GPT, weights: Mapping[str, np.ndarray], heads: int) -> None:
    """Copies weights by the names of transformers' GPT-2 into the model."""
    given = {name.removeprefix("transformer."): value for name, value in weights.items()}

    def put(variable: Any, value: np.ndarray) -> None:
        assert variable.get_value().shape == value.shape, (variable, value.shape)
        variable.set_value(jnp.asarray(value))

    def norm(module: nnx.LayerNorm, name: str) -> None:
        put(module.scale, given.pop(f"{name}.weight"))
        put(module.bias, given.pop(f"{name}.bias"))

    def linear(module: nnx.Linear, name: str) -> None:
        put(module.kernel, given.pop(f"{name}.weight"))
        put(module.bias, given.pop(f"{name}.bias"))

    put(model.wte.embedding, given.pop("wte.weight"))
    put(model.wpe.embedding, given.pop("wpe.weight"))
    norm(model.ln_f, "ln_f")
    for i, block in enumerate(model.h):
        norm(block.ln_1, f"h.{i}.ln_1")
        norm(block.ln_2, f"h.{i}.ln_2")
        linear(block.fc, f"h.{i}.mlp.c_fc")
        linear(block.proj, f"h.{i}.mlp.c_proj")
        kernel, bias = (given.pop(f"h.{i}.attn.c_attn.{part}") for part in ("weight", "bias"))
        width = len(kernel)
        parts = (block.attn.query, block.attn.key, block.attn.value)
        for part, k, b in zip(parts, np.split(kernel, 3, 1), np.split(bias, 3), strict=True):
            put(part.kernel, k.reshape(width, heads, -1))
            put(part.bias, b.reshape(heads, -1))
        out = given.pop(f"h.{i}.attn.c_proj.weight")
        put(block.attn.out.kernel, out.reshape(heads, -1, width))
        put(block.attn.out.bias, given.pop(f"h.{i}.attn.c_proj.bias"))
    assert not given, sorted(given)


def flax_side(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    model = GPT(row, nnx.Rngs(0))
    with np.load(folder / "weights.npz") as file:
        load(model, {name: file[name] for name in file.files}, row["heads"])
    decays = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
    adamw = optax.adamw(1e-3, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, mask=decays)
    optimizer = nnx.Optimizer(
        model, optax.chain(optax.clip_by_global_norm(1.0), adamw), wrt=nnx.Param
    )
    with np.load(folder / "batches.npz") as file:
        count = sum(name.startswith("tokens_") for name in file.files)
        data = [
            tuple(jnp.asarray(file[f"{k}_{i}"]) for k in ("tokens", "targets"))
            for i in range(count)
        ]
    place = itertools.cycle(data)

    def loss_of(model: GPT, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(model(tokens), targets)
        return losses.mean()

    @nnx.jit(donate_argnums=(0, 1))
    def step(
        model: GPT, optimizer: nnx.Optimizer, tokens: jax.Array, targets: jax.Array
    ) -> jax.Array:
        loss, gradients = nnx.value_and_grad(loss_of)(model, tokens, targets)
        optimizer.update(model, gradients)
        return loss

    def steps(count: int) -> list[float]:
        found = [step(model, optimizer, *next(place)) for _ in range(count)]
        return [float(x) for x in jax.device_get(found)]

    square = jnp.ones((1024, 1024))
    matmul = jax.jit(lambda x: x @ x)
    return {"steps": steps, "matmul": lambda: jax.block_until_ready(matmul(square))}


def main() -> None:
    import json

    sys.path.insert(0, str(Path(__file__).parent))
    from against_torch import serve

    folder = Path(sys.argv[3])
    serve(flax_side(json.loads((folder / "row.json").read_text()), folder))


if __name__ == "__main__":
    main()
