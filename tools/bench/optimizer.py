"""Times AdamW alone against torch's fused one, float32 on one core, at three sizes.

    python tools/bench/optimizer.py --torch /tmp/torch/bin/python
    python tools/bench/optimizer.py --tiny             # jaxlm alone, a second

jaxlm's part of the train step after the gradients: their norm, the clip, AdamW and the guard. Two
sides of torch: `clip_grad_norm_` with the fused step, and the fused step alone. The shapes are a
Transformer's, with layers in stacks. Each side is a process of its own, and they take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from against_torch import Process, serve

SIZES = {"0.1M": (2, 64, 65), "10M": (6, 384, 2048), "100M": (12, 768, 20_000)}  # layers, D, V
TINY = {"tiny": (1, 8, 9)}
TORCH = ("clip and step", "step")


def shapes_of(layers: int, width: int, vocab: int) -> list[tuple[int, ...]]:
    """Matrices alone: they all decay."""
    square, up = (layers, width, width), (layers, width, 4 * width)
    return [(vocab, width), *[square] * 4, up, (layers, 4 * width, width)]


def jaxlm_side(shapes: list[list[int]]) -> Mapping[str, Any]:
    import jax
    import jax.numpy as jnp
    import optax

    from jaxlm.distributed.memory import keep_freed_memory
    from jaxlm.optim.adamw import AdamW
    from jaxlm.optim.optimizer import build

    keep_freed_memory()
    rng = np.random.default_rng(0)
    params, grads = {}, {}
    for index, shape in enumerate(shapes):
        for tree in (params, grads):
            tree[f"p{index}"] = jnp.array(0.02 * rng.standard_normal(shape, dtype=np.float32))
    axes = {name: ("layers", "embed", "mlp")[-p.ndim :] for name, p in params.items()}
    tx = build(AdamW(learning_rate=1e-3), params, axes, 1_000).tx

    def step(params: Any, state: Any, grads: Any, number: Any) -> Any:
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(norm)
        updates, state = tx.update(grads, state, params, step=number, norm=norm, good=good)
        new = optax.apply_updates(params, updates)
        return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, params), state

    place, number = (params, jax.jit(tx.init)(params)), jnp.int32(1)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*place, grads, number).compile()
    del params

    def steps(count: int) -> list[float]:
        nonlocal place
        for _ in range(count):
            place = compiled(*place, grads, number)
        return [sum(float(np.abs(np.asarray(p, np.float64)).sum()) for p in place[0].values())]

    return {"steps": steps}


def measured(name: str, size: tuple[int, int, int], options: Any) -> dict[str, Any]:
    shapes = shapes_of(*size)
    count = sum(int(np.prod(shape)) for shape in shapes)
    each = 1 if options.tiny else max(2, min(200, 50_000_000 // count))
    core = min(os.sched_getaffinity(0)) if options.core is None else options.core
    given = json.dumps(shapes)
    running = {"jaxlm": Process(sys.executable, "optimizer.py", "jaxlm", given, core)}
    for side in TORCH if options.torch else ():
        running[side] = Process(options.torch, "torch_side.py", side, given, core)
    cpu: dict[str, list[float]] = {side: [] for side in running}
    for process in running.values():
        process.ask(steps=2)
    for _ in range(1 if options.tiny else options.rounds):
        for side, process in running.items():
            # A turn of no steps takes what the sum of all parameters takes.
            whole, empty = process.ask(steps=each)["cpu"], process.ask(steps=0)["cpu"]
            cpu[side].append(max(1e-9, (whole - empty) / each))
    for process in running.values():
        process.end()
    ends = {side: process.losses[-1] for side, process in running.items()}
    return {
        "name": name,
        "unit": "updates",
        "parameters": count,
        "cpu_seconds": {side: statistics.median(values) for side, values in cpu.items()},
        "ratio": {
            side: statistics.median(b / a for a, b in zip(cpu["jaxlm"], values, strict=True))
            for side, values in cpu.items()
            if side != "jaxlm"
        },
        # from the side of torch that clips too
        "difference": abs(ends["jaxlm"] / ends.get(TORCH[0], ends["jaxlm"]) - 1),
    }


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--torch", help="the Python that has torch; without it jaxlm is alone")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default 7)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--core", type=int, help="the core of all sides; the first by default")
    parser.add_argument("--tiny", action="store_true", help="a size of a second, to see it work")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("given", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.side:
        serve(jaxlm_side(json.loads(options.given)))
        return []
    rows = []
    for name, size in (TINY if options.tiny else {n: SIZES[n] for n in options.sizes}).items():
        rows.append(measured(name, size, options))
        print(f"{name}: {rows[-1]['parameters'] / 1e6:.1f} M parameters")
        for side, seconds in rows[-1]["cpu_seconds"].items():
            ratio = rows[-1]["ratio"].get(side)
            beside = "" if ratio is None else f"  this / jaxlm: {ratio:.2f}"
            print(f"  {side:14} {seconds * 1e3:8.2f} ms{beside}")
        if options.torch:
            print(f"  sums of the parameters differ by {rows[-1]['difference']:.1e}")
    if options.json:
        Path(options.json).write_text(
            json.dumps({"name": "optimizer", "rows": rows}, indent=1) + "\n"
        )
    return rows


if __name__ == "__main__":
    main()
