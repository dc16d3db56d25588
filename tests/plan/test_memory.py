"""What a plan says of its memory: a plan that is not known to have room is never called safe."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from jaxlm.plan.compiling import OutOfMemory, read_out_of_memory
from jaxlm.plan.devices import Topology
from jaxlm.plan.memory import MemoryPlan, MemoryUse, of_compiled, of_refused

GiB = 2**30


def plan(size: float, **how) -> MemoryPlan:
    parts = [MemoryUse(kind="parameters", module="ffn", num_bytes=size)]
    return MemoryPlan(parts=parts, **({"limit": 100.0, "share": 0.9, "compiled": True} | how))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (plan(90), "fits"),
        (plan(90, compiled=False), "likely fits"),
        (plan(90.1, compiled=False), "tight"),
        (plan(90.1), "tight"),
        (plan(100), "tight"),
        (plan(100.1), "does not fit"),
        (plan(10, known=False), "unknown"),
        (plan(float("nan")), "unknown"),
        (plan(0), "unknown"),
        (plan(10, refused=OutOfMemory(None, None, "")), "does not fit"),
    ],
)
def test_verdicts(found, verdict):
    assert found.verdict == verdict


def test_what_is_on_the_host_takes_no_room_on_the_device():
    parts = [
        MemoryUse(kind="optimizer", module="", num_bytes=90, on_host=True),
        MemoryUse(kind="parameters", module="", num_bytes=10),
    ]
    found = MemoryPlan(parts=parts, limit=20, share=0.9, compiled=False)
    assert (found.total, found.host, found.verdict) == (10, 90, "likely fits")
    assert found.by_kind() == {"parameters": 10}


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (15.86G) exceeds available HBM (15.75G).",
            15.86 * GiB,
            15.75 * GiB,
        ),
        (
            "RESOURCE_EXHAUSTED: CompileTimeHbmOom: XLA:TPU compile permanent error. Ran out of "
            "memory in memory space hbm. Used 33.40G of 15.75G hbm. Exceeded hbm capacity",
            33.40 * GiB,
            15.75 * GiB,
        ),
        ("RESOURCE_EXHAUSTED: no figures", None, None),
    ],
)
def test_the_compilers_complaint(message, needed, available):
    found = read_out_of_memory(message)
    assert found is not None
    assert (found.needed, found.available) == (needed, available)


def test_another_error_is_not_one_of_memory():
    assert read_out_of_memory("INVALID_ARGUMENT: something else exceeds 3.0G") is None


def test_a_refused_step_keeps_the_estimate_but_never_fits():
    small = [MemoryUse(kind="parameters", module="", num_bytes=1.0)]
    refused = OutOfMemory(16 * GiB, 15.75 * GiB, "")
    found = of_refused(refused, small, Topology.read("v5e:4x4"))
    assert (found.verdict, found.limit) == ("does not fit", 15.75 * GiB)


@pytest.mark.parametrize(
    ("peak", "total", "verdict"),
    [(12.0, 12.5, "fits"), (15.0, 15.5, "tight"), (0.0, 16.5, "does not fit")],
)
def test_a_compiled_step_uses_the_most_that_is_live(peak, total, verdict):
    """Without a peak in XLA's statistics, all temporaries count. The program itself is not live."""
    sizes = {"argument": 9, "temp": 6, "output": 8, "alias": 7, "generated_code": 0.5}
    stats = {f"{name}_size_in_bytes": size * GiB for name, size in sizes.items()}
    stats |= {"peak_memory_in_bytes": peak * GiB, "host_temp_size_in_bytes": 0}
    compiled = SimpleNamespace(
        learner=SimpleNamespace(abstract_state=dict, abstract_frozen=dict),
        batch_spec={},
        stats=SimpleNamespace(**stats),
        timeline=SimpleNamespace(at_peak={("gradients", "ffn"): 4 * GiB}),
    )
    found = of_compiled(cast(Any, compiled), Topology.read("v5e:2x2"))
    assert found.total == total * GiB
    assert found.verdict == verdict
