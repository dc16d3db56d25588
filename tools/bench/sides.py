"""Measures two or more ways of one job in turn, A B A B, by the CPU-seconds that they take.

    found = compare({"ours": ours, "theirs": theirs}, work=32 * 1024, unit="tokens", rounds=5)
    found["per_second"]["ours"], found["ratio"]["theirs"]      # ratio above 1: ours is faster
    emit("loader", [found])

CPU-seconds of this process and of its children that have ended, not wall time: others share the
cores. A ratio is the median of the rounds' own ratios, so that a slow minute counts on both sides.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Job = Callable[[], object]


def cpu_seconds() -> float:
    """CPU-seconds of this process, all its threads, and of its children that have ended."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def seconds_of(job: Job) -> tuple[float, float]:
    """(CPU-seconds, seconds) of a call."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    job()
    return cpu_seconds() - cpu, time.perf_counter() - wall


def compare(
    sides: Mapping[str, Job],
    *,
    name: str = "",
    work: float = 1.0,
    unit: str = "runs",
    rounds: int = 5,
) -> dict[str, Any]:
    """Runs every side once a round, in turn. The first side is the one that is compared.

    work: units of one call. A first round, which warms caches, is not counted.
    """
    for job in sides.values():
        job()
    taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, job in sides.items():
            taken[side].append(seconds_of(job))
    first = next(iter(sides))
    cpu = {side: [max(c, 1e-9) for c, _ in pairs] for side, pairs in taken.items()}
    return {
        "name": name,
        "unit": unit,
        "work": work,
        "rounds": rounds,
        "cpu_seconds": {side: statistics.median(values) for side, values in cpu.items()},
        "seconds": {side: statistics.median(w for _, w in pairs) for side, pairs in taken.items()},
        "per_second": {side: work / statistics.median(values) for side, values in cpu.items()},
        "ratio": {
            side: statistics.median(b / a for a, b in zip(cpu[first], values, strict=True))
            for side, values in cpu.items()
            if side != first
        },
    }


def emit(name: str, rows: Sequence[Mapping[str, Any]], out: str | Path | None = None) -> None:
    """Prints the rows as lines, or writes them as JSON to the file `out`."""
    for row in rows:
        print(row["name"])
        for side, rate in row["per_second"].items():
            ratio = row["ratio"].get(side)
            said = "" if ratio is None else f"   the first / this: {ratio:.2f}"
            print(f"  {side:32} {rate:14,.4g} {row['unit']} a CPU-second{said}")
    if out is not None:
        Path(out).write_text(json.dumps({"name": name, "rows": list(rows)}, indent=1) + "\n")


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default 5)")
    parser.add_argument("--tiny", action="store_true", help="a size of a second, to see it work")
    parser.add_argument("--json", help="also write the result to this file")
    return parser
