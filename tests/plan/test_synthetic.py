"""Instructions as TPU compilers write them, one at a time, with their bytes and turns by hand."""

from __future__ import annotations

import pytest

from jaxlm.plan.hlo.count import count
from jaxlm.plan.hlo.loops import trip_count
from jaxlm.plan.hlo.text import parse

MOVES = """HloModule m

ENTRY %main (a: f32[64,128], h: f32[4,64,128]) -> f32[64,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  %h = f32[4,64,128]{2,1,0:T(8,128)S(5)} parameter(1)
  %i = s32[]{:T(128)} constant(1)
  LINE
  ROOT %b = f32[64,128]{1,0:T(8,128)} bitcast(%a)
}
"""
SIZE = 64 * 128 * 4


@pytest.mark.parametrize(
    ("line", "hbm", "host"),
    [
        (  # into the chip's own memory: read once
            "%c = (f32[64,128]{1,0:T(8,128)S(1)}, f32[64,128]{1,0:T(8,128)}, u32[]{:S(2)}) "
            "copy-start(%a)",
            SIZE,
            0,
        ),
        (  # from one place of HBM to another: read and written
            "%c = (f32[64,128]{0,1:T(8,128)}, f32[64,128]{1,0:T(8,128)}, u32[]{:S(2)}) "
            "copy-start(%a)",
            2 * SIZE,
            0,
        ),
        (  # a quarter of it
            "%c = ((f32[64,128]{1,0:T(8,128)}), f32[16,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) "
            "slice-start(%a), slice={[0:16], [0:128]}",
            SIZE / 4,
            0,
        ),
        (  # a row of what the host holds
            "%c = ((f32[4,64,128]{2,1,0:T(8,128)S(5)}, s32[], s32[], s32[]), "
            "f32[1,64,128]{2,1,0:T(8,128)}, u32[]{:S(2)}) dynamic-slice-start(%h, %i, %i, %i)",
            SIZE,
            SIZE,
        ),
        (  # and one written there
            "%c = ((f32[4,64,128]{2,1,0:T(8,128)S(5)}, f32[64,128]{1,0:T(8,128)}, s32[]), "
            "f32[4,64,128]{2,1,0:T(8,128)S(5)}, u32[]{:S(2)}) "
            "dynamic-update-slice-start(%h, %a, %i)",
            SIZE,
            SIZE,
        ),
        ("%c = f32[64,128]{1,0:T(8,128)} negate(%a)", 2 * SIZE, 0),
        ("%c = f32[64,128]{1,0:T(8,128)S(1)} negate(%a)", SIZE, 0),
        ("%c = f32[64,128]{1,0:T(8,128)} bitcast(%a)", 0, 0),
        ('%c = f32[64,128] custom-call(), custom_call_target="AllocateBuffer"', 0, 0),
    ],
)
def test_bytes_that_an_instruction_moves(line, hbm, host):
    found = count(MOVES.replace("LINE", line), mesh={"data": 1})
    assert (found.hbm_bytes, found.host_bytes) == (hbm, host)


SEND = (
    "%n = token[] after-all()\n  %c = (f32[64,128]{1,0:T(8,128)}, u32[], token[]) send(%a, %n), "
    'channel_id=1, is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",'
    '_xla_megascale_transfer_type="KIND"}'
)


@pytest.mark.parametrize(
    ("kind", "name", "wire"),
    [
        ("ALL_REDUCE", "all-reduce", 2 * SIZE / 2),
        ("ALL_GATHER", "all-gather", 2 * SIZE / 2),
        ("REDUCE_SCATTER", "reduce-scatter", SIZE / 2),
        ("ONE_TO_ONE", "collective-permute", SIZE),
    ],
)
def test_what_is_sent_between_slices(kind, name, wire):
    text = MOVES.replace("LINE", SEND.replace("KIND", kind))
    found = count(text, mesh={"data": 2, "fsdp": 4}, slices=[0] * 4 + [1] * 4)
    (sent,) = found.collectives
    assert (sent.kind, sent.axes, sent.slices, sent.wire_bytes) == (name, ("data",), 2, wire)
    assert found.hbm_bytes == SIZE
    assert "but none were given" in count(text, mesh={"data": 2, "fsdp": 4}).notes[0]


@pytest.mark.parametrize("back", [False, True])
def test_of_ragged_rows_the_room_that_they_come_into_is_not_sent(back):
    rows, room = ("%h", "%a") if back else ("%a", "%h")
    line = f"%c = f32[4,64,128] ragged-all-to-all({rows}, {room}, %i, %i, %i, %i), "
    found = count(MOVES.replace("LINE", line + "replica_groups={{0,1,2,3}}"), mesh={"expert": 4})
    (sent,) = found.collectives
    assert (sent.whole_bytes, sent.wire_bytes) == (SIZE, SIZE * 3 / 4)
    assert [shape.dims for shape in sent.given] == [(64, 128)]
    text = MOVES.replace("S(5)", "").replace("LINE", line + "replica_groups={{0,1,2,3}}")
    # read where they were, written where they come
    assert count(text, mesh={"expert": 4}).hbm_bytes == 2 * SIZE


LOOP = """HloModule m

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8] get-tuple-element(%p), index=1
  %one = s32[] constant(STEP)
  %next = s32[] add(%i, %one)
  ROOT %t = (s32[], f32[8]) tuple(%next, %x)
}

%cond (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(LIMIT)
  ROOT %c = pred[] compare(COMPARED), direction=DIRECTION
}

ENTRY %main (x: f32[8]) -> (s32[], f32[8]) {
  %x = f32[8] parameter(0)
  %zero = s32[] constant(START)
  %t = (s32[], f32[8]) tuple(%zero, %x)
  ROOT %w = (s32[], f32[8]) while(%t), condition=%cond, body=%body
}
"""


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("limit", [3, 10])
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("direction", ["LT", "LE"])
@pytest.mark.parametrize("flipped", [False, True])
def test_turns_of_a_loop_are_those_that_it_takes(start, limit, step, direction, flipped):
    written = {"LT": "GT", "LE": "GE"}[direction] if flipped else direction
    compared = "%n, %i" if flipped else "%i, %n"
    text = LOOP
    for name, value in (
        ("START", start),
        ("LIMIT", limit),
        ("STEP", step),
        ("COMPARED", compared),
        ("DIRECTION", written),
    ):
        text = text.replace(name, str(value))
    turns, at = 0, start
    while at < limit or (direction == "LE" and at == limit):
        turns, at = turns + 1, at + step
    module = parse(text)
    assert trip_count(module.entry.root, module.entry, module) == turns


@pytest.mark.parametrize(("start", "limit", "direction"), [(9, 0, "GT"), (9, 0, "GE")])
def test_a_loop_that_counts_down(start, limit, direction):
    text = LOOP.replace("COMPARED", "%i, %n").replace("DIRECTION", direction)
    text = text.replace("START", str(start)).replace("LIMIT", str(limit)).replace("STEP", "-1")
    module = parse(text)
    expected = start - limit + (direction == "GE")
    assert trip_count(module.entry.root, module.entry, module) == expected


OTHER_CORE = """HloModule m

%on_the_sparse_core (x: f32[64,128]) -> f32[64,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  ROOT %y = f32[64,128]{1,0:T(8,128)} negate(%x)
}, execution_thread="sparsecore"

%behind_it (x: f32[64,128]) -> f32[64,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  ROOT %z = f32[64,128]{1,0:T(8,128)} negate(%x)
}

ENTRY %main (a: f32[64,128]) -> f32[64,128] {
  %a = f32[64,128]{1,0:T(8,128)} parameter(0)
  ROOT %b = f32[64,128]{1,0:T(8,128)} fusion(%a), kind=kLoop, calls=%behind_it
}
"""


def test_a_computation_may_end_with_the_thread_that_runs_it():
    found = parse(OTHER_CORE)
    names = {"on_the_sparse_core": ["x", "y"], "behind_it": ["x", "z"], "main": ["a", "b"]}
    assert {n: [op.name for op in c.ops] for n, c in found.computations.items()} == names
    assert count(OTHER_CORE, mesh={"data": 1}).hbm_bytes == 2 * SIZE


RAGGED = """HloModule m

ENTRY %main (a: bf16[512,128], w: bf16[8,128,256], g: bf16[512,256]) -> bf16[8,128,256] {
  %a = bf16[512,128]{1,0} parameter(0)
  %w = bf16[8,128,256]{2,1,0} parameter(1)
  %g = bf16[512,256]{1,0} parameter(2)
  %sizes = s32[9]{0} constant({0})
  %ragged-dot-metadata = (s32[9]{0}) custom-call(%sizes), custom_call_target="tpu_custom_call"
  %ragged-dot-none = bf16[512,256]{1,0} custom-call(%sizes, %a, %w), custom_call_target="tpu_custom_call"
  ROOT %ragged-dot-none.1 = bf16[8,128,256]{2,1,0} custom-call(%sizes, %a, %g), custom_call_target="tpu_custom_call"
}
"""  # noqa: E501


def test_products_of_experts_count_by_their_rows():
    found = count(RAGGED, mesh={"data": 1})
    assert found.flops == 2 * (2 * 512 * 128 * 256)
    assert found.notes == []


def test_rows_that_are_filled_count_where_experts_are_split():
    """Each of four devices has room for the rows of all four."""
    assert count(RAGGED, mesh={"expert": 4}).flops == 2 * (2 * 128 * 128 * 256)
    rows, kernels = 2 * 512 * (128 + 256), 2 * 8 * 128 * 256
    products = 2 * (rows / 4 + kernels)  # and their metadata, read and written
    assert count(RAGGED, mesh={"expert": 4}).hbm_bytes == pytest.approx(products, rel=1e-3)


FILLED = """HloModule m

%body (p: (s32[], f32[64,128])) -> (s32[], f32[64,128]) {
  %p = (s32[], f32[64,128]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[64,128]{1,0} get-tuple-element(%p), index=1
  %block = f32[8,128]{1,0} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={8,128}
  ROOT %t = (s32[], f32[64,128]) tuple(%i, %x)
}

%cond (p: (s32[], f32[64,128])) -> pred[] {
  %p = (s32[], f32[64,128]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %i), direction=LT
}

ENTRY %main (a: f32[64,128]) -> (s32[], f32[64,128]) {
  %a = f32[64,128]{1,0} parameter(0)
  %i = s32[] constant(0)
  %t = (s32[], f32[64,128]) tuple(%i, %a)
  ROOT %w = (s32[], f32[64,128]) while(%t), condition=%cond, body=%body,
  metadata={op_name="jit(f)/NAME/while"}
}
"""  # noqa: E501


def test_a_loop_over_filled_rows_runs_as_often_as_they_fill_blocks():
    block = 2 * 8 * 128 * 4
    found = count(FILLED.replace("NAME", "filled_rows_of_8"), mesh={"expert": 4})
    assert (found.hbm_bytes, found.notes) == (pytest.approx(2 * block, rel=2e-3), [])
    other = count(FILLED.replace("NAME", "anything"), mesh={"expert": 4})
    assert other.hbm_bytes == pytest.approx(block, rel=2e-3)
    assert "could not be read" in other.notes[0]


# A loop's product as TPUs' compiler writes it: what is read passes through computations of its own.
PASSED_ON = """HloModule m, is_scheduled=true
%as_it_is (p.0: f32[64,128]) -> f32[64,128] {
  %p.0 = f32[64,128]{1,0} parameter(0)
  ROOT %r.0 = f32[64,128]{1,0} HOW(%p.0)
}
%work (p.1: f32[64,128], p.2: f32[8,64], p.3: s32[]) -> f32[8,128] {
  %p.1 = f32[64,128]{1,0} parameter(0)
  %p.2 = f32[8,64]{1,0} parameter(1)
  %p.3 = s32[] parameter(2)
  %same = f32[64,128]{1,0} fusion(%p.1), kind=kLoop, calls=%as_it_is
  ROOT %d = f32[8,128]{1,0} USE
}
ENTRY %main (a: f32[64,128], b: f32[8,64], i: s32[]) -> f32[8,128] {
  %a = f32[64,128]{1,0} parameter(0)
  %b = f32[8,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = f32[8,128]{1,0} fusion(%a, %b, %i), kind=kOutput, calls=%work
}
"""
DOT = "dot(%p.2, %same), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
ROWS = "dynamic-slice(%same, %p.3, %p.3), dynamic_slice_sizes={8,128}"


@pytest.mark.parametrize("how", ["bitcast", "copy"])
@pytest.mark.parametrize(("use", "read"), [(DOT, 64 * 128 + 8 * 64), (ROWS, 8 * 128)])
def test_what_a_fusion_hands_on_within_another_is_read_as_it_is_used_there(how, use, read):
    found = count(PASSED_ON.replace("HOW", how).replace("USE", use), mesh={"data": 1})
    assert found.hbm_bytes == pytest.approx(4 * (read + 8 * 128), abs=8)
