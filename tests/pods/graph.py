"""What a compiled step of a pod does, in a few lines: counts and bytes, never its text.

    python -m tests.pods.graph                    # compares all with golden/
    python -m tests.pods.graph llama3.1_8b        # shows one, and its analytic minimum
    python -m tests.pods.graph --update           # writes golden/ anew; look at the difference

Steps are compiled without the compiler's own optimizations, which leaves what is asked of them here
as it is: what is sent where, in which dtype products are, what is kept and what is donated.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxlm.plan.analytic import Work, analyse
from jaxlm.plan.compiling import Compiled, compile_for
from jaxlm.plan.devices import Topology
from jaxlm.plan.facts import facts_of
from jaxlm.plan.hlo import Counts
from jaxlm.plan.memory import MemoryPlan, of_compiled
from jaxlm.plan.setting import setting_of
from jaxlm.plan.shapes import planned
from jaxlm.run import RunConfig, load_run

CONFIGS = Path(__file__).parents[2] / "configs" / "pretrain"
GOLDEN = Path(__file__).parent / "golden"
MIB, GIB = 2**20, 2**30

# A config, and how much of a device's memory it may take.
PODS: dict[str, float] = {
    "gpt2_124m": 0.9,
    "bert_large": 0.9,
    "llama3.1_8b": 0.9,
    "llama3.1_70b": 0.9,
    "mixtral_8x7b": 0.9,
    "deepseek_671b": 0.95,
    "glm_10b": 0.9,
    "gpt3_175b": 0.95,
}


@dataclass(frozen=True)
class Graph:
    """A compiled step, and what it should be."""

    config: RunConfig
    topology: Topology
    compiled: Compiled

    @cached_property
    def counts(self) -> Counts:
        return self.compiled.counts()

    @cached_property
    def memory(self) -> MemoryPlan:
        return of_compiled(self.compiled, self.topology)

    @cached_property
    def minimum(self) -> Work:
        """The analytic model's."""
        facts = facts_of(self.config)
        mesh = self.config.mesh.shape(self.topology.num_devices)
        return analyse(facts, setting_of(facts, mesh, self.topology), self.topology)

    @cached_property
    def sent(self) -> dict[tuple[str, ...], float]:
        """Bytes that a device sends, by the axes that they go over."""
        return _by_axes(self.counts.collectives)

    @cached_property
    def least(self) -> dict[tuple[str, ...], float]:
        return _by_axes(self.minimum.load.transfers)

    def summary(self) -> str:
        """The golden text."""
        counts, stats = self.counts, self.compiled.stats
        lines = [f"topology {self.topology}"]
        lines += [f"flops {dtype} {n:.4e}" for dtype, n in sorted(counts.flops_by_dtype.items())]
        found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for c in counts.collectives:
            key = f"{c.kind} {'+'.join(c.axes)} {'dcn' if c.slices > 1 else 'ici'}"
            found[key][0] += c.times
            found[key][1] += c.wire_bytes
        for key, (times, size) in sorted(found.items()):
            if size >= MIB:
                lines.append(f"{key} {times:.0f} x, {size / MIB:.1f} MiB")
        lines.append(f"state {stats.alias_size_in_bytes / GIB:.3f} GiB")
        lines.append(f"memory {self.memory.total / GIB:.2f} GiB of {self.memory.limit / GIB:.2f}")
        return "\n".join(lines) + "\n"


def _by_axes(transfers: Any) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for t in transfers:
        found[tuple(sorted(t.axes))] += t.wire_bytes
    return dict(found)


def load(name: str, *overrides: str) -> RunConfig:
    return planned(load_run(CONFIGS / f"{name}.yaml", overrides).config)


def graph_of(config: RunConfig) -> Graph:
    """The step of a config, compiled for its own topology."""
    assert config.mesh.topology is not None
    topology = Topology.read(config.mesh.topology)
    compiled = compile_for(config, topology, quick=True)
    assert isinstance(compiled, Compiled), compiled
    return Graph(config, topology, compiled)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pods.graph", description=__doc__)
    parser.add_argument("names", nargs="*", help="configs of configs/pretrain; none: all tested")
    parser.add_argument("--update", action="store_true", help="write the golden texts anew")
    arguments = parser.parse_args(argv)
    changed = 0
    for name in arguments.names or PODS:
        graph = graph_of(load(name))
        text, path = graph.summary(), GOLDEN / f"{name}.txt"
        print(f"== {name}, compiled in {graph.compiled.seconds:.0f} s\n{text}", end="")
        for axes in sorted({*graph.sent, *graph.least}):
            sent, least = (x.get(axes, 0.0) / MIB for x in (graph.sent, graph.least))
            print(f"   over {'+'.join(axes)}: {sent:.1f} MiB sent, {least:.1f} MiB at least")
        if arguments.update:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            changed += 1
            print("   differs from its golden text")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
