"""What a compiled step of a pod does, in a few lines: counts and bytes, never its text.

    python -m tests.pods.graph                    # compares those of `.ci/run` with golden/
    python -m tests.pods.graph --all              # compares all: a quarter of an hour
    python -m tests.pods.graph llama3.1_8b        # shows one, and the least that it could send
    python -m tests.pods.graph --update           # writes golden/ again; look at the difference

Steps are compiled without the compiler's own optimizations, which leaves what is asked of them here
as it is, except for one case of `sent.BEYOND`: what is sent where, in which dtype products are,
what is kept and what is donated.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax

from jaxlm.kernels.registry import target_platform
from jaxlm.plan.closed_form.facts import facts_of
from jaxlm.plan.closed_form.setting import setting_of
from jaxlm.plan.closed_form.transfers import transfers
from jaxlm.plan.compiling import Compiled, compile_for, devices_of
from jaxlm.plan.devices import Topology
from jaxlm.plan.hlo.count import Counts
from jaxlm.plan.memory import MemoryPlan, live_bytes, of_compiled
from jaxlm.plan.shapes import batch_spec_of, planned
from jaxlm.run import RunConfig, load_run
from jaxlm.training.build import learner_of
from tests.pods.known import Known
from tests.pods.sent import CAST, MIB, Key, Piece, as_least, pieces_of

FOLDERS = (Path(__file__).parents[2] / "configs" / "pretrain", Path(__file__).parent / "configs")
GOLDEN = Path(__file__).parent / "golden"
GIB = 2**30

FOR_ALL = "sums by all-reduce for reduce-scatter, x2"
LONGER = "sums of longer parts"
TURNS = "sums in turns, two too many"
TABLE = "a table summed over all of the batch together"
EXPERTS = "experts summed in float32"
NORMS = "a stage's norms read by sums"
TILES = "a table's tiles between slices"

# A config, and the exceptions of `sent.BEYOND` that its step makes. The last seven are here alone:
# stages between slices, large and small, an expert a device, all experts on each device, rows whose
# tokens are split, in two ways, and two slices; nobody trains them.
PODS: dict[str, tuple[str, ...]] = {
    "gpt2_124m": (),
    "bert_large": (),
    "llama3.1_8b": (CAST, LONGER),
    "llama3.1_70b": (CAST, LONGER),
    "llama3.1_405b": (CAST, LONGER, "a table summed over tensor as well"),
    "mixtral_8x7b": (CAST, TABLE, EXPERTS),
    "deepseek_671b": (CAST, LONGER, FOR_ALL, TABLE, TURNS),
    "glm_10b": (CAST, TABLE),
    "gpt3_175b": (CAST, LONGER, FOR_ALL, TABLE),
    "t5_11b": (CAST, LONGER, "adafactor's means along a split dim"),
    "lstm_1b": (CAST, TURNS),
    "slices_of_stages": (CAST, FOR_ALL, NORMS, TILES),
    "stages": (CAST, FOR_ALL, NORMS, TILES, TURNS),
    "expert": (CAST, TABLE, "experts summed by all-reduce, x2"),
    "mixture": (EXPERTS,),
    "ring": (),
    "context": (CAST, "a table summed over tensor as well"),
    "slices": (CAST, FOR_ALL),
}


# `.ci/run` compiles these: each axis of a mesh, each generation of chips and each exception at
# least once. The others are `slow`.
IN_CI = {"t5_11b", "lstm_1b"}
IN_CI |= {"stages", "expert", "mixture", "context", "slices"}

# In these, which nobody trains, fsdp takes all of a slice: what it sums is sent twice.
WHOLE_SLICES = {"slices_of_stages", "stages", "slices"}


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
    def known(self) -> Known:
        """The arrays that are sent on purpose."""
        facts = facts_of(self.config)
        rows = self.compiled.batch_spec["tokens"].shape[1]  # an objective may lengthen them
        mesh = self.config.mesh.shape(self.topology.num_devices)
        setting = setting_of(facts, mesh, self.topology)
        return Known(replace(facts, seq_len=rows), setting, self.topology)

    @cached_property
    def pieces(self) -> list[Piece]:
        return pieces_of(self.counts)

    @cached_property
    def sent(self) -> dict[Key, float]:
        """Bytes that a device sends, by kind and axes, without what exceptions send more."""
        return as_least(self.pieces, self.known)[0]

    @cached_property
    def beyond(self) -> dict[str, float]:
        """What exceptions send more, where it is of account."""
        found = as_least(self.pieces, self.known)[1]
        return {name: size for name, size in found.items() if size >= MIB}

    @cached_property
    def least(self) -> dict[Key, float]:
        """What has to be sent."""
        known = self.known
        found: dict[Key, float] = defaultdict(float)
        for t in transfers(known.facts, known.setting, self.topology, least=True):
            found[t.kind, tuple(sorted(t.axes))] += t.wire_bytes
        return dict(found)

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
        lines += [
            f"beyond the least: {k}, {n / MIB:.1f} MiB" for k, n in sorted(self.beyond.items())
        ]
        lines.append(f"state {stats.alias_size_in_bytes / GIB:.3f} GiB")
        # as the compiler packed it; `memory` has the most that is live, and may be less
        packed = self.memory.total - live_bytes(stats) + stats.temp_size_in_bytes
        lines.append(f"memory {packed / GIB:.2f} GiB of {self.memory.limit / GIB:.2f}")
        return "\n".join(lines) + "\n"


def path_of(name: str) -> Path:
    return next(path for folder in FOLDERS if (path := folder / f"{name}.yaml").exists())


def load(name: str, *overrides: str) -> RunConfig:
    return planned(load_run(path_of(name), overrides).config)


def graph_of(config: RunConfig) -> Graph:
    """The step of a config, compiled for its own topology."""
    assert config.mesh.topology is not None
    topology = Topology.read(config.mesh.topology)
    compiled = compile_for(config, topology, quick=True)
    assert isinstance(compiled, Compiled), compiled
    return Graph(config, topology, compiled)


def length_of(config: RunConfig) -> int:
    """Lines of the program that is given to the compiler for a config's topology, its mesh and all.

    It is lowered as training does it, and not compiled.
    """
    assert config.mesh.topology is not None
    devices = devices_of(Topology.read(config.mesh.topology))
    mesh = config.mesh.build(devices)
    learner = learner_of(config, mesh)
    spec = batch_spec_of(config, mesh)
    with target_platform("tpu"), jax.set_mesh(mesh):
        lowered = learner.lower(spec)
    return lowered.as_text().count("\n")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pods.graph", description=__doc__)
    parser.add_argument("names", nargs="*", help="configs; none: those of .ci/run")
    parser.add_argument("--all", action="store_true", help="all that have a golden text")
    parser.add_argument("--update", action="store_true", help="write the golden texts again")
    arguments = parser.parse_args(argv)
    changed = 0
    for name in PODS if arguments.all else arguments.names or sorted(IN_CI):
        graph = graph_of(load(name))
        text, path = graph.summary(), GOLDEN / f"{name}.txt"
        print(f"== {name}, compiled in {graph.compiled.seconds:.0f} s\n{text}", end="")
        for kind, axes in sorted({*graph.sent, *graph.least}):
            sent, least = (x.get((kind, axes), 0.0) / MIB for x in (graph.sent, graph.least))
            print(f"   {kind} {'+'.join(axes)}: {sent:.1f} MiB sent, {least:.1f} MiB at least")
        if arguments.update:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            changed += 1
            print("   differs from its golden text")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
