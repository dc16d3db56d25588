"""The steps of shipped pod configs, compiled by the TPUs' own compiler: what no loss would show.

They need libtpu and no TPU: `pip install -e '.[tpu]'`. Each config is compiled once.
"""

from __future__ import annotations

import re
from functools import cache

import jax
import pytest

from jaxlm.plan.shapes import batch_spec_of
from jaxlm.train.session import program_of
from tests.pods.graph import GIB, GOLDEN, MIB, PODS, Graph, graph_of, load
from tests.tpu import needs_libtpu

pytestmark = [pytest.mark.pods, needs_libtpu]


SCALARS = 2 * MIB  # of sums that are single numbers, whose bytes no closed form counts


@cache
def compiled(name: str) -> Graph:
    return graph_of(load(name))


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_the_step_that_is_meant(name):
    """One test a config, so that one worker compiles it; every failure is told."""
    problems = problems_of(compiled(name), PODS[name])
    golden = (GOLDEN / f"{name}.txt").read_text()
    problems += differences(golden, compiled(name).summary())
    assert not problems, "\n".join(problems)


def problems_of(graph: Graph, room: float) -> list[str]:
    """What is not as it should be with a compiled step."""
    memory, stats = graph.memory, graph.compiled.stats
    found = []
    if memory.total > room * memory.limit:
        found.append(f"memory: {memory.total / GIB:.2f} GiB of {memory.limit / GIB:.2f}")
    state = sum(p.num_bytes for p in memory.parts if p.kind in ("parameters", "optimizer"))
    if stats.alias_size_in_bytes < state:
        found.append(
            f"donation: {stats.alias_size_in_bytes / GIB:.3f} GiB of a state of {state / GIB:.3f}"
        )
    narrow = graph.config.model.dtype == "bfloat16"
    flops = graph.counts.flops_by_dtype
    wide = sum(n for dtype, n in flops.items() if dtype == "f32") / graph.counts.flops
    if narrow and wide > 0.002:  # a router's products are float32 on purpose
        found.append(f"float32 products: {wide:.2%} of the FLOPs")
    for axes in {*graph.sent, *graph.least}:
        sent, least = graph.sent.get(axes, 0.0), graph.least.get(axes, 0.0)
        if abs(sent - least) > max(0.05 * least, SCALARS):
            found.append(f"over {'+'.join(axes)}: {sent:.3e} bytes sent, {least:.3e} at least")
    return found


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


@pytest.mark.parametrize("name", PODS)
def test_a_deeper_model_is_no_longer_program(name):
    """What is compiled does not grow with depth: a loop has one body, however often it runs."""
    lines = []
    for layers in (8, 16):
        config = load(name, f"model.num_layers={layers}")
        config = config.replace(mesh=type(config.mesh)(data=1, num_devices=1))
        config = config.replace(train=config.train.replace(batch_size=1, accumulation=1))
        mesh = config.mesh.build()
        program = program_of(config, mesh)
        with jax.set_mesh(mesh):
            spec = batch_spec_of(config, mesh, signals=False)
            lowered = jax.jit(program.train_step).lower(program.abstract_state(), spec)
        lines.append(lowered.as_text().count("\n"))
    assert lines[0] == lines[1]


def test_every_golden_text_is_of_a_config_that_is_tested():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(PODS)
