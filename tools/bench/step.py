"""Times the train steps of a config: milliseconds, CPU-seconds and page faults of a step.

    python tools/bench/step.py configs/quickstart.yaml --steps 20
    MALLOC_ARENA_MAX=8 python tools/bench/step.py configs/quickstart.yaml    # as glibc frees memory
    taskset -c 0 python tools/bench/step.py configs/quickstart.yaml model.scan_layers=false

Medians of all steps but the first three. A step's time includes the wait for its batch and for its
results. `jaxlm.distributed.memory` leaves malloc alone where the environment sets it, so the second
line shows what it gives.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from sides import arguments, cpu_seconds, emit

import jaxlm

WARM = 3  # steps that are not counted
ALONE = (
    "train.epochs=null",
    "eval={every_steps: 1000000, at_end: false, baseline: false}",
    "checkpoint.every_steps=1000000",
    "sample={prompts: []}",
)


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = arguments(__doc__)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=20, help="counted steps (default 20)")
    options = parser.parse_intermixed_args(words)
    count = WARM + (2 if options.tiny else options.steps)
    with tempfile.TemporaryDirectory() as folder:
        given = [*ALONE, f"train.steps={count}", f"run_dir={folder}/run", *options.overrides]
        seconds, cpu, faults = _measured(options.config, given)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {
        "name": f"a step of {options.config}",
        "unit": "steps",
        "seconds": {"jaxlm": statistics.median(seconds[WARM:])},
        "cpu_seconds": {"jaxlm": statistics.median(cpu[WARM:])},
        "per_second": {"jaxlm": 1 / max(1e-9, statistics.median(cpu[WARM:]))},
        "page_faults": statistics.median(faults[WARM:]),
        "peak_bytes": peak,
        "ratio": {},
    }
    emit("step", [row], options.json)
    print(f"  {row['seconds']['jaxlm'] * 1e3:.1f} ms, {row['page_faults']:,.0f} page faults a step")
    print(f"  {peak / 2**20:,.0f} MiB at the peak of the process")
    return [row]


def _measured(config: str, overrides: Sequence[str]) -> tuple[list[float], list[float], list[int]]:
    """Seconds, CPU-seconds and page faults of each step."""
    seconds, cpu, faults = [], [], []
    before = _now()
    with jaxlm.steps(config, overrides) as steps:
        for step in steps:
            jax.block_until_ready(step.state)
            after = _now()
            for found, a, b in zip((seconds, cpu, faults), before, after, strict=True):
                found.append(b - a)
            before = after
    return seconds, cpu, faults


def _now() -> tuple[float, float, int]:
    return (
        time.perf_counter(),
        cpu_seconds(),
        resource.getrusage(resource.RUSAGE_SELF).ru_minflt,
    )


if __name__ == "__main__":
    main()
