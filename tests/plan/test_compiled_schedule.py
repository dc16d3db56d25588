"""A schedule's clock, turned by hand for texts as TPU compilers write them."""

from __future__ import annotations

import pytest

from jaxlm.plan.devices import Topology
from jaxlm.plan.hlo.collectives import Network
from jaxlm.plan.hlo.schedule import scheduled
from jaxlm.plan.hlo.text import parse
from jaxlm.plan.roofline import Transfer, network_seconds

V5E = Topology.read("v5e:2x4")
CLOCK = 1.5e9
NETWORK = Network({"fsdp": 8})
BYTES = 8 * 4096 * 4096 * 2  # of the gathered array
GATHER = "channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}"
WORK = 'calls=%work, backend_config={"estimated_cycles":"CYCLES"}'

TEXT = """HloModule m, is_scheduled=true

%work (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  ROOT %n = f32[8,128]{1,0} negate(%p)
}

%body (t: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %t = (s32[], f32[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8,128]{1,0} get-tuple-element(%t), index=1
  %one = s32[] constant(1)
  %j = s32[] add(%i, %one)
  %y = f32[8,128]{1,0} fusion(%x), kind=kLoop, WORK
  ROOT %r = (s32[], f32[8,128]{1,0}) tuple(%j, %y)
}

%condition (t.1: (s32[], f32[8,128])) -> pred[] {
  %t.1 = (s32[], f32[8,128]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%t.1), index=0
  %n.1 = s32[] constant(5)
  ROOT %c = pred[] compare(%i.1, %n.1), direction=LT
}

ENTRY %main (a: f32[8,128], w: bf16[4096,4096]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %w = bf16[4096,4096]{1,0} parameter(1)
LINES
  ROOT %b = f32[8,128]{1,0} bitcast(%a)
}
"""
LOOP = """  %zero = s32[] constant(0)
  %first = (s32[], f32[8,128]{1,0}) tuple(%zero, %a)
  %loop = (s32[], f32[8,128]{1,0}) while(%first), condition=%condition, body=%body
"""
START = f"  %g = (bf16[4096,4096], bf16[32768,4096]) all-gather-start(%w), {GATHER}\n"
DONE = "  %d = bf16[32768,4096] all-gather-done(%g)\n"
WHOLE = f"  %g = bf16[32768,4096] all-gather(%w), {GATHER}\n"


def schedule(lines: str, cycles: int):
    text = TEXT.replace("LINES", lines).replace("WORK", WORK).replace("CYCLES", str(cycles))
    return scheduled(parse(text), NETWORK, V5E)


def ring() -> float:
    sent = Transfer(kind="all-gather", axes=("fsdp",), size=8, slices=1, wire_bytes=BYTES * 7 / 8)
    ici, _ = network_seconds([sent], V5E)
    return sum(ici.values())


def work(cycles: int) -> str:
    return f"  %f = f32[8,128] fusion(%a), kind=kLoop, {WORK}\n".replace("CYCLES", str(cycles))


def test_a_loop_takes_its_cycles_as_often_as_it_runs():
    found = schedule(LOOP, 3000)
    assert found.core == pytest.approx(5 * 3000 / CLOCK)
    assert found.waits == found.network == 0


def test_a_collective_that_is_not_split_is_waited_for_whole():
    found = schedule(WHOLE + work(6000), 0)
    assert found.waits == pytest.approx(ring())
    assert found.step == pytest.approx(ring() + 6000 / CLOCK)
    assert found.hidden == 0


def test_work_between_start_and_end_hides_as_much_of_it():
    cycles = int(ring() * CLOCK / 4)
    found = schedule(START + work(cycles) + DONE, 0)
    assert found.waits == pytest.approx(0.75 * ring(), rel=1e-3)
    assert found.step == pytest.approx(ring(), rel=1e-3)
    assert found.waits_by_kind == {"all-gather": pytest.approx(found.waits)}
    long = schedule(START + work(5 * cycles) + DONE, 0)
    assert long.waits == 0
    assert long.hidden == pytest.approx(ring())


def test_work_after_the_end_hides_nothing():
    found = schedule(START + DONE + work(10**6), 0)
    assert found.waits == pytest.approx(ring())


def test_two_at_a_time_share_the_network():
    second = START.replace("%g", "%g2") + DONE.replace("%g", "%g2").replace("%d", "%d2")
    found = schedule(START + second + DONE, 0)
    assert found.step == pytest.approx(2 * ring())


FUSED = f"""
%begin (p.1: bf16[4096,4096]) -> bf16[32768,4096] {{
  %p.1 = bf16[4096,4096]{{1,0}} parameter(0)
  %g.1 = bf16[32768,4096] all-gather(%p.1), {GATHER}, frontend_attributes={{chain_id="0"}}
  ROOT %s.1 = (bf16[32768,4096], u32[]) custom-call(%g.1), custom_call_target="AsyncStart"
}}

%end (p.2: bf16[4096,4096]) -> bf16[32768,4096] {{
  %p.2 = bf16[4096,4096]{{1,0}} parameter(0)
  %g.2 = bf16[32768,4096] all-gather(%p.2), {GATHER}, frontend_attributes={{chain_id="0"}}
  ROOT %s.2 = bf16[32768,4096] custom-call(%g.2), custom_call_target="AsyncDone"
}}

ENTRY"""


def test_a_collective_that_is_carried_through_fusions_is_one():
    cycles = int(ring() * CLOCK / 4)
    lines = (
        "  %async-collective-start = (bf16[32768,4096], u32[]) fusion(%w), calls=%begin\n"
        "  %e = u32[] get-tuple-element(%async-collective-start), index=1\n"
        + work(cycles)
        + "  %async-collective-done = bf16[32768,4096] fusion(%w, %e), calls=%end\n"
    )
    text = TEXT.replace("LINES", lines).replace("WORK", WORK).replace("CYCLES", "0")
    found = scheduled(parse(text.replace("\nENTRY", FUSED)), NETWORK, V5E)
    assert found.network == pytest.approx(ring())
    assert found.waits == pytest.approx(0.75 * ring(), rel=1e-3)


def test_what_the_compiler_has_no_estimate_of_is_reported_and_counts_nothing():
    found = schedule(work(2**63 - 1) + work(3000).replace("%f", "%f2"), 0)
    assert found.core == pytest.approx(3000 / CLOCK)
    assert found.unknown == 1


def test_a_text_without_cycles_has_no_schedule():
    text = TEXT.replace("LINES", WHOLE).replace("WORK", "calls=%work")
    assert scheduled(parse(text), NETWORK, V5E) is None
