"""How long a save of a checkpoint holds up the trainer, and what the step after it costs.

    python tools/bench/saves.py --megabytes 130

A state of float32 arrays (parameters and two moments) is donated from step to step and saved after
every tenth. CPU-seconds of the thread that trains within `save`, without the first save of the
process; the bar is 0.5% of 50 steps of 0.15 s. Then the process's CPU-seconds of a step: alone,
and right after a save, whose views keep the old arrays, so that the step gets new memory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from sides import arguments, cpu_seconds, emit

from jaxlm.checkpoint import state_io
from jaxlm.checkpoint.writer import CheckpointConfig, Checkpointer

BETWEEN = 50 * 0.15  # seconds from save to save


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = arguments(__doc__)
    parser.add_argument("--megabytes", type=float, default=130)
    options = parser.parse_args(words)
    megabytes = 1 if options.tiny else options.megabytes
    rounds = 2 if options.tiny else options.rounds + 1
    state = _state(megabytes)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = jax.block_until_ready(step(state))
    blocked, alone, after, before = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        saver = Checkpointer(f"{folder}/checkpoints", CheckpointConfig(keep_last=2))
        for number in range(rounds):
            started = time.thread_time()
            saver.save(number + 1, state, {"data.json": b"{}"})
            blocked.append(time.thread_time() - started)
            saver.wait()
            cpu = cpu_seconds()
            state = jax.block_until_ready(step(state))
            alone.append(cpu_seconds() - cpu)
            kept = state_io.snapshot(state)
            cpu = cpu_seconds()
            state = jax.block_until_ready(step(state))
            after.append(cpu_seconds() - cpu)
            del kept
            started = time.thread_time()  # as saves began before: in the thread that trains
            _, finish = state_io.start_writing(saver.folder / f"{number}.other", number, state)
            before.append(time.thread_time() - started)
            finish()
        saver.close()
    found = {
        "blocked": statistics.median(blocked[1:]),
        "first save": blocked[0],
        "begun by the trainer": statistics.median(before[1:]),
        "step": statistics.median(alone),
        "step after a save": statistics.median(after),
    }
    for name, seconds in found.items():
        print(f"{name:22} {1e3 * seconds:8.1f} CPU-ms")
    lost = found["blocked"] + max(0.0, found["step after a save"] - found["step"])
    print(f"of {BETWEEN} s: blocked {found['blocked'] / BETWEEN:.2%}, in all {lost / BETWEEN:.2%}")
    row = {
        "name": f"{megabytes:g} MB",
        "unit": "saves",
        "cpu_seconds": found,
        "blocked_share": found["blocked"] / BETWEEN,
        "lost_share": lost / BETWEEN,
        "per_second": {"blocked": 1 / max(found["blocked"], 1e-9)},
        "ratio": {},
    }
    emit("saves", [row], options.json)
    return [row]


def _state(megabytes: float) -> dict[str, Any]:
    """Three trees of twenty kernels and biases."""
    size = int(megabytes * 1e6 / 4 / 60 / 64)

    def tree() -> dict[str, Any]:
        layers = range(20)
        return {f"{i}": {"kernel": jnp.ones((size, 64)), "bias": jnp.ones(64)} for i in layers}

    return {"params": tree(), "mu": tree(), "nu": tree(), "step": jnp.int32(0)}


if __name__ == "__main__":
    main()
