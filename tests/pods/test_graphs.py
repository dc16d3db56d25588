"""The steps of shipped pod configs, compiled by the TPUs' own compiler: what no loss would show.

They need libtpu and no TPU: `pip install -e '.[tpu]'`. Each config is compiled once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from functools import cache

import pytest

from jaxlm.cli import main
from jaxlm.plan.devices import SAFE_SHARE, Topology
from tests.pods.graph import (
    GIB,
    GOLDEN,
    IN_CI,
    PODS,
    WHOLE_SLICES,
    Graph,
    graph_of,
    length_of,
    load,
    path_of,
)
from tests.pods.sent import CAST, MIB, unexpected_gathers
from tests.tpu import needs_libtpu

pytestmark = [pytest.mark.pods, needs_libtpu]


SCALARS = 2 * MIB  # of sums that are single numbers, whose bytes no closed form counts
# Files that ask for float32 products on purpose. The scores by which tokens choose their experts
# are float32, so that near ties fall as they would on any mesh (Switch Transformer, section 2.4).
FLOAT32 = {"router"}


@cache
def compiled(name: str) -> Graph:
    return graph_of(load(name))


@pytest.mark.parametrize(
    "name",
    [n if n in IN_CI else pytest.param(n, marks=pytest.mark.slow) for n in PODS],
)
def test_a_pod_runs_the_step_that_is_meant(name):
    """One test a config, so that one worker compiles it; every failure is told."""
    problems = problems_of(compiled(name), PODS[name])
    if name not in WHOLE_SLICES:
        problems += total_problems(compiled(name))
    golden = (GOLDEN / f"{name}.txt").read_text()
    problems += differences(golden, compiled(name).summary())
    assert not problems, "\n".join(problems)


def problems_of(graph: Graph, exceptions: Collection[str]) -> list[str]:
    """What is not as it should be with a compiled step."""
    memory, stats = graph.memory, graph.compiled.stats
    found = []
    if memory.total > SAFE_SHARE * memory.limit:
        found.append(f"memory: {memory.total / GIB:.2f} GiB of {memory.limit / GIB:.2f}")
    state = sum(p.num_bytes for p in memory.parts if p.kind in ("parameters", "optimizer"))
    if stats.alias_size_in_bytes < state:
        found.append(
            f"donation: {stats.alias_size_in_bytes / GIB:.3f} GiB of a state of {state / GIB:.3f}"
        )
    if graph.config.model.dtype != "float32":  # auto is bfloat16 on a TPU
        found += [
            f"float32 products: {flops:.3e} FLOPs, in {part}"
            for (part, dtype), flops in graph.counts.flops_by_part.items()
            if dtype == "f32" and part not in FLOAT32
        ]
    return found + network_problems(graph, exceptions)


def network_problems(graph: Graph, exceptions: Collection[str]) -> list[str]:
    """What is sent and should not be: each kind along each axis is held to its own least."""
    found = [f"gathered: {piece}" for piece in unexpected_gathers(graph.pieces, graph.known)]
    for kind, axes in {*graph.sent, *graph.least}:
        sent, least = (x.get((kind, axes), 0.0) for x in (graph.sent, graph.least))
        if abs(sent - least) > max(0.05 * least, SCALARS):
            where = f"{kind} over {'+'.join(axes)}"
            found.append(f"{where}: {sent:.3e} bytes sent, {least:.3e} at least")
    for name in graph.beyond.keys() - set(exceptions):
        found.append(f"beyond the least: {name}, which its line in PODS does not say")
    for name in set(exceptions) - graph.beyond.keys():
        found.append(f"beyond the least: {name} does not happen; take it off its line in PODS")
    return found


def total_problems(graph: Graph) -> list[str]:
    """All that is sent, exceptions too, except the one that no run makes, is held to the least."""
    sent = sum(graph.sent.values())
    sent += sum(size for name, size in graph.beyond.items() if name != CAST)
    least = sum(graph.least.values())
    return [f"in all: {sent:.3e} bytes sent, {least:.3e} at least"] if sent > 1.05 * least else []


def differences(golden: str, text: str) -> list[str]:
    """Lines that differ; memory may by a fiftieth, which another version of the compiler takes."""

    def parts(line: str) -> tuple[str, float]:
        number = re.search(r"memory ([\d.]+)", line)
        return (re.sub(r"memory [\d.]+", "memory", line), float(number[1]) if number else 0.0)

    before, after = ([parts(line) for line in x.splitlines()] for x in (golden, text))
    if [w for w, _ in before] != [w for w, _ in after]:
        return [f"golden text: has {set(before) - set(after)}, found {set(after) - set(before)}"]
    return [
        f"golden text: {words} {was}, found {now}"
        for (words, was), (_, now) in zip(before, after, strict=True)
        if abs(now - was) > 0.02 * was
    ]


# Each kind of loop: experts; a pipeline; a recurrent model; and, slow, two runs of a decoder;
# an encoder and a decoder. The other configs have the same loops, on other meshes.
STACKS = ["mixture", "gpt3_175b", "lstm_1b"]
STACKS += [pytest.param(name, marks=pytest.mark.slow) for name in ("deepseek_671b", "t5_11b")]


@pytest.mark.parametrize("name", STACKS)
def test_a_deeper_model_is_not_a_longer_program(name):
    """What is compiled does not grow with depth: a loop has one body, however often it runs."""
    pieces = 8  # of GPT-3's pipeline, each of which has to have its share
    short, long = (length_of(load(name, f"model.num_layers={n * pieces}")) for n in (2, 4))
    assert short == long


def test_every_golden_text_is_of_a_config_that_is_tested():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(PODS)


@pytest.mark.parametrize("name", sorted(IN_CI))
def test_the_analytic_model_counts_the_flops_of_the_compiled_step(name, capsys):
    """As the golden texts have them, which the tests above compare with the compiled steps."""
    lines = (GOLDEN / f"{name}.txt").read_text().splitlines()
    compiled = sum(float(line.split()[2]) for line in lines if line.startswith("flops "))
    assert main(["plan", str(path_of(name)), "--analytic", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["work"]["FLOPs, FLOP"]
    assert found == pytest.approx(compiled, rel=5e-4)


def test_what_ci_compiles_has_each_axis_exception_and_generation_of_chips():
    """Else a change of what is sent there would be found by the slow ones alone."""
    assert set(PODS) >= IN_CI
    of_ci, of_all = ({x for name in names for x in features(name)} for names in (IN_CI, PODS))
    assert of_ci == of_all


def features(name: str) -> set[str]:
    mesh = load(name).mesh
    topology = Topology.read(mesh.topology or "")
    sizes = mesh.shape(topology.num_devices)
    return {topology.chip.name, *PODS[name], *(axis for axis, size in sizes.items() if size > 1)}
