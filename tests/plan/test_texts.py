"""What is read in programs compiled for TPUs, against sums by hand and XLA's own figures."""

from __future__ import annotations

import pytest

from jaxlm.plan.hlo.collectives import Network
from jaxlm.plan.hlo.count import count, count_module
from jaxlm.plan.hlo.kernels import ModelFacts
from jaxlm.plan.hlo.liveness import SAVED, live
from jaxlm.plan.hlo.text import parse
from tests.plan.texts import TEXTS, counts_of, module_of, text_of

TOKENS = {"v5e_fsdp8_tensor2": 2 * 2048, "v5e_fsdp16_offload": 2048}  # of a device
HIDDEN, FFN, VOCAB, LAYERS = 1024, 4096, 32768, 6
ATTENTION = HIDDEN * 128 * (8 + 4 + 4 + 8)  # weights of a layer: queries, keys, values, output


def by_hand(name: str) -> dict[str, float]:
    """FLOPs of a device: of products, and of the attention kernel by blocks of 512."""
    tensor = TEXTS[name][0]["tensor"]
    tokens = TOKENS[name]
    layer = ATTENTION + 3 * HIDDEN * FFN
    again = layer - HIDDEN * FFN  # the last product of a layer is not repeated
    if name == "v5e_fsdp16_offload":  # and what makes a tensor that is kept is not
        again -= HIDDEN * 128 * (8 + 4 + 4)
    products = 2 * tokens * LAYERS * (3 * layer + again) / tensor
    head = 6 * tokens * HIDDEN * VOCAB / tensor
    pairs = tokens * 2048 * (4 + 1) / (2 * 4)
    forward = 4 * 8 * 128 * pairs * LAYERS / tensor
    repeats = name == "v5e_fsdp8_tensor2"
    return {"products": products + head, "kernels": forward * (1 + repeats + 2.5)}


@pytest.mark.parametrize("name", TEXTS)
def test_flops_are_those_by_hand(name):
    found, expected = counts_of(name), by_hand(name)
    assert found.kernel_flops == pytest.approx(expected["kernels"], rel=1e-9)
    assert found.flops - found.kernel_flops == pytest.approx(expected["products"], rel=1e-3)
    assert set(found.flops_by_dtype) == {"bf16"}
    assert not found.notes


@pytest.mark.parametrize("name", TEXTS)
def test_every_weight_is_gathered_twice_the_embedding_once(name):
    mesh, found = TEXTS[name][0], counts_of(name)
    weights = LAYERS * (ATTENTION + 3 * HIDDEN * FFN) / mesh["tensor"]
    table = VOCAB * HIDDEN / mesh["tensor"]
    whole = 2 * (2 * weights + table)  # bfloat16
    share = (mesh["fsdp"] - 1) / mesh["fsdp"]
    assert found.wire_bytes("all-gather", "fsdp") == pytest.approx(whole * share, rel=1e-6)


@pytest.mark.parametrize("name", TEXTS)
def test_every_gradient_is_summed_once(name):
    """As a reduce-scatter or, where XLA takes one, an all-reduce of twice the bytes."""
    mesh, found = TEXTS[name][0], counts_of(name)
    weights = LAYERS * (ATTENTION + 3 * HIDDEN * FFN) / mesh["tensor"]
    table = VOCAB * HIDDEN / mesh["tensor"]
    whole = 2 * weights + (2 + 4) * table  # the tied table's two gradients, one of them float32
    share = (mesh["fsdp"] - 1) / mesh["fsdp"]
    summed = sum(
        c.wire_bytes / (2 if c.kind == "all-reduce" else 1)
        for c in found.collectives
        if c.axes == ("fsdp",) and c.kind != "all-gather"
    )
    assert summed == pytest.approx(whole * share, rel=2e-3)


def test_tensor_parallel_gathers_six_times_a_layer_and_scatters_five_times():
    """In and out of attention and ffn: forward, backward, and again except for the last way out."""
    found = counts_of("v5e_fsdp8_tensor2")
    half = TOKENS["v5e_fsdp8_tensor2"] * HIDDEN * 2 / 2
    sent = {
        kind: sum(
            c.wire_bytes
            for c in found.collectives
            if c.axes == ("tensor",) and c.kind == kind and c.whole_bytes >= 2 * half
        )
        for kind in ("all-gather", "reduce-scatter", "all-reduce")
    }
    assert sent["all-gather"] == (6 * LAYERS + 2) * half
    assert sent["reduce-scatter"] == (5 * LAYERS + 1) * half
    assert sent["all-reduce"] == 2 * half


def test_what_is_offloaded_goes_out_and_comes_in_once():
    tokens = TOKENS["v5e_fsdp16_offload"]
    # queries, the kernel's output under its two names, and its sums in float32
    kept = LAYERS * tokens * (3 * 8 * 128 * 2 + 8 * 4)
    assert counts_of("v5e_fsdp16_offload").host_bytes == 2 * kept
    assert counts_of("v5e_fsdp8_tensor2").host_bytes == 0


@pytest.mark.parametrize("name", TEXTS)
def test_memory_over_the_step_comes_near_to_what_xla_assigns(name):
    timeline = live(module_of(name))
    arguments, temporaries = TEXTS[name][2]
    assert 0.75 < timeline.peak_bytes / temporaries < 1.15
    assert sum(timeline.at_peak.values()) == timeline.peak_bytes
    entry = sum(p.shapes[0].padded_bytes for p in module_of(name).entry.parameters)
    assert entry == pytest.approx(arguments, rel=1e-3)


def test_what_layers_keep_is_named_by_its_size():
    timeline = live(module_of("v5e_fsdp8_tensor2"))
    kept = sum(size for (what, _), size in timeline.at_peak.items() if what == SAVED)
    inputs = LAYERS * TOKENS["v5e_fsdp8_tensor2"] * HIDDEN * 2 / 2  # split along tensor
    assert 0.25 * inputs <= kept < 1.3 * inputs


def test_parts_of_the_model_are_told_apart():
    found = counts_of("v5e_fsdp8_tensor2")
    head = 6 * TOKENS["v5e_fsdp8_tensor2"] * HIDDEN * VOCAB / 2
    assert found.by_module["head"].flops == pytest.approx(head, rel=1e-6)
    ffn = 3 * 2 * TOKENS["v5e_fsdp8_tensor2"] * LAYERS * 3 * HIDDEN * FFN / 2
    assert found.by_module["ffn"].flops == pytest.approx(ffn, rel=1e-6)
    phases = {name: cost.flops for name, cost in found.by_phase.items()}
    assert phases["update"] == 0 and phases["recomputation"] < phases["forward"]


def test_a_window_is_told_to_the_count():
    name = "v5e_fsdp8_tensor2"
    half = count(text_of(name), mesh={"fsdp": 8, "tensor": 2}, visible=0.1875)
    assert half.kernel_flops == pytest.approx(counts_of(name).kernel_flops / 2)


def test_attributes_that_go_over_several_lines_are_one_instruction():
    text = """HloModule m

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %k = f32[8,128]{1,0:T(8,128)} custom-call(%a), custom_call_target="own", a={x={
"y":"{\\"block_kv\\": 512}"
}}, metadata={op_name="jit(f)/a"}
}
"""
    module = parse(text)
    assert [op.opcode for op in module.entry.ops] == ["parameter", "custom-call"]
    assert module.entry.ops[0].shapes[0].space == 1
    assert module.entry.root.op_name == "jit(f)/a"
    assert "own" in count(text, mesh={"data": 1}).notes[0]


@pytest.mark.parametrize(
    ("text", "size", "padded"),
    [
        ("f32[6,128,2,128]{3,2,1,0:T(2,128)}", 6 * 128 * 2 * 128 * 4, 6 * 128 * 2 * 128 * 4),
        ("bf16[10,100]{1,0:T(8,128)(2,1)}", 2000, 16 * 128 * 2),
        ("bf16[100,10]{0,1:T(8,128)}", 2000, 16 * 128 * 2),
        ("s4[3]", 2, 2),
        ("pred[]", 1, 1),
    ],
)
def test_arrays_take_whole_tiles(text, size, padded):
    from jaxlm.plan.hlo.text import read_shapes

    (shape,) = read_shapes(text)
    assert (shape.num_bytes, shape.padded_bytes) == (size, padded)


def calls_in(scope: str, keys: int) -> str:
    """The forward and the backward call of splash attention on 1,024 queries, in a scope."""
    k, path = f"bf16[2,4,{keys},128]", f"jit(step)/shard_map/{scope}/vmap(splash)/splash_mha"
    call = 'custom-call(%q, %k, %k), custom_call_target="tpu_custom_call", backend_config='
    forward, backward = '{"block_kv": 256}', '{"block_kv_dkv": 512}'
    return f"""HloModule m

ENTRY %main (q: bf16[2,8,1024,128], k: {k}) -> bf16[2,8,1024,128] {{
  %q = bf16[2,8,1024,128] parameter(0)
  %k = {k} parameter(1)
  %f = bf16[2,8,1024,128] {call}{forward}, metadata={{op_name="{path}_fwd/squeeze"}}
  ROOT %b = bf16[2,8,1024,128] {call}{backward}, metadata={{op_name="{path}_dkv/squeeze"}}
}}
"""


@pytest.mark.parametrize(
    ("scope", "keys", "told", "forward", "backward"),
    [
        ("mask", 1024, None, 10 / 16, 3 / 4),  # n (n + 1) / 2 of n^2 blocks
        ("mask", 1024, 0.3, 0.3 + 1 / 8, 0.3 + 1 / 4),  # and half a block of the border
        ("mask", 1024, 1.0, 1.0, 1.0),
        ("mask", 4096, None, 17 / 32, 9 / 16),  # a quarter of a row, early and late chunks
        ("full_mask", 1024, None, 1.0, 1.0),
        ("full_mask", 2048, 0.3, 1.0, 1.0),
        # keys twice: whole, and below the diagonal
        ("prefix_mask", 2048, None, (16 + 10) / 32, (4 + 3) / 8),
        ("prefix_mask", 2048, 0.4, (1 + 0.4 + 1 / 8) / 2, (1 + 0.4 + 1 / 4) / 2),
    ],
)
def test_attention_kernels_are_counted_by_what_they_see(scope, keys, told, forward, backward):
    found = count(calls_in(scope, keys), mesh={"data": 1}, visible=told)
    pairs = 2 * 8 * 1024 * keys
    assert found.kernel_flops == pytest.approx(pairs * (2 * 256 * forward + 10 * 128 * backward))


def test_kernels_have_the_head_size_of_the_plan():
    module = parse(calls_in("mask", 1024))
    found = count_module(module, Network({"data": 1}), ModelFacts(head_size=64.0))
    assert {piece.head_size for piece in found.pieces if piece.kernel_flops} == {64.0}
