"""Times generation against transformers, float32 on one core: greedy, the same weights and prompts.

    python tools/bench/generation.py --torch PYTHON --json generation.json
    python tools/bench/generation.py --tiny             # jaxlm alone, seconds

A call continues a batch of prompts by a number of tokens, none of which ends a text, with a cache
of keys and values. Each side is a process of its own, on the same core, and they take turns. The
first call of a process is given apart: jaxlm's program then comes from the cache of compilations,
as in the second run of a command. `equal` is the share of ids that both sides write.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from against_torch import Process, Row, _jaxlm_model, serve

NEW = 64  # tokens of a call, after prompts of the rest of a row
ROWS = {
    "12 x 768, batch 1": Row("gpt", 768, 12, 12, 128, 1, 50_257),
    "12 x 768, batch 16": Row("gpt", 768, 12, 12, 128, 16, 50_257),
    "6 x 384, batch 1": Row("gpt", 384, 6, 6, 128, 1, 50_257),
    "6 x 384, batch 16": Row("gpt", 384, 6, 6, 128, 16, 50_257),
}
TINY = {"tiny": Row("gpt", 16, 1, 2, 72, 2, 17)}


def jaxlm_side(row: Row, folder: Path) -> Mapping[str, Any]:
    """Writes the weights for the other side; the caller gives it a cache of compilations."""
    import jax

    from jaxlm.core.sampling import Sampling
    from jaxlm.distributed.memory import keep_freed_memory
    from jaxlm.generate.generator import Generator
    from jaxlm.mesh import MeshConfig
    from jaxlm.training.program import make_program

    keep_freed_memory()
    jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    model, objective, names = _jaxlm_model(row)
    mesh = MeshConfig(data=1, num_devices=1).build()
    program = make_program(mesh=mesh, model=model, objective=objective, batch_size=row.batch)
    params = program.draw()
    config, arrays = names(jax.device_get(params))
    np.savez(folder / "weights.npz", **arrays)
    (folder / "config.json").write_text(json.dumps(config))
    sampling = Sampling(max_tokens=NEW, temperature=0.0)
    generator = Generator(program, sampling, eos_id=None, pad_id=0)
    prompts = np.load(folder / "prompts.npy").tolist()

    def steps(count: int) -> list[float]:
        found: list[list[int]] = []
        for _ in range(count):
            found = generator(params, prompts)
        return np.array(found, float).flatten().tolist()

    return {"steps": steps, "parameters": sum(x.size for x in jax.tree.leaves(params))}


def measured(name: str, row: Row, options: argparse.Namespace) -> dict[str, Any]:
    core = min(os.sched_getaffinity(0)) if options.core is None else options.core
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "row.json").write_text(json.dumps(row.__dict__))
        prompts = np.random.default_rng(0).integers(1, row.vocab, (row.batch, row.length - NEW))
        np.save(folder / "prompts.npy", prompts)
        start = lambda: Process(sys.executable, "generation.py", "jaxlm", made, core)  # noqa: E731
        once = start()
        once.ask(steps=1)  # leaves the compiled program
        once.end()
        running = {"jaxlm": start()}
        if options.torch:
            running["transformers"] = Process(options.torch, "torch_side.py", "write", made, core)
        try:
            first = {side: process.ask(steps=1)["cpu"] for side, process in running.items()}
            for _ in range(1 if options.tiny else options.rounds):
                for process in running.values():
                    process.cpu.append(max(process.ask(steps=1)["cpu"], 1e-9))
        finally:
            for process in running.values():
                process.end()
    ours = running["jaxlm"]
    others = {side: process for side, process in running.items() if process is not ours}
    size = row.batch * NEW
    return {
        "name": name,
        "unit": "tokens",
        "work": size,
        "parameters": ours.told["parameters"],
        "cpu_seconds": {side: statistics.median(p.cpu) for side, p in running.items()},
        "per_second": {side: size / statistics.median(p.cpu) for side, p in running.items()},
        "first_seconds": first,
        "peak_bytes": {side: process.peak for side, process in running.items()},
        "ratio": {
            side: statistics.median(b / a for a, b in zip(ours.cpu, process.cpu, strict=True))
            for side, process in others.items()
        },
        "first_ratio": {side: first[side] / first["jaxlm"] for side in others},
        "equal": {
            side: float(np.mean(np.array(ours.losses[:size]) == np.array(process.losses[:size])))
            for side, process in others.items()
        },
    }


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--torch", help="the Python that has torch; without it jaxlm is alone")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument("--core", type=int, help="the core of all sides; the first by default")
    parser.add_argument("--tiny", action="store_true", help="a size of a second, to see it work")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.side:
        folder = Path(options.folder)
        row = Row(**json.loads((folder / "row.json").read_text()))
        serve(jaxlm_side(row, folder))
        return []
    rows = []
    for name, row in (TINY if options.tiny else {n: ROWS[n] for n in options.rows}).items():
        found = measured(name, row, options)
        rows.append(found)
        print(f"{name}: {found['parameters'] / 1e6:.1f} M parameters")
        for side, rate in found["per_second"].items():
            first = found["first_seconds"][side]
            line = f"  {side:14} {rate:9.1f} tokens a CPU-second, first call {first:6.2f} s"
            if side in found["ratio"]:
                line += f"  this / jaxlm: {found['ratio'][side]:.2f}, first call "
                line += f"{found['first_ratio'][side]:.2f}; equal ids {found['equal'][side]:.0%}"
            print(line)
        if options.json:
            text = json.dumps({"name": "generation", "rows": rows}, indent=1)
            Path(options.json).write_text(text + "\n")
    return rows


if __name__ == "__main__":
    main()
